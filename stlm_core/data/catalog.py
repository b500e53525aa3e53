"""The catalogue: which images belong to a line, with their hashes, as a table that a person can read and git can diff.

``stlm lines add`` writes it and ``stlm lines update`` appends to it; the pipeline reads nothing else of the folder. So
the test set stays what it was, a file that was changed in place is noticed, and one hash names a version of the data.

A line's settings name the hash of its catalogue, so two files have to change together. The new catalogue is therefore
staged beside the old one under a name made of its hash, then the settings are replaced, then the staged file takes the
catalogue's place: whoever reads in between, or after a kill, finds the version that the settings name.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from stlm_core.config import LineConfig
from stlm_core.data.adapters import find_adapter
from stlm_core.data.adapters.base import Record, Scan, printable, stays_inside
from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes, write_bytes_atomic

_SHA256 = re.compile("[0-9a-f]{64}")
_SHOWN = 200  # characters of a value that a message shows


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """One image. Paths are posix, relative to the line's images; "" for no mask and for no group.

    ``split`` is "train" (good images, divided further by the validation) or "test"; ``mask_sha256`` is that of the
    file, or of all files of a folder of masks; ``batch`` counts imports: 0 for ``lines add``, 1 for the first update.
    """

    path: str
    split: Literal["train", "test"]
    label: int
    defect_type: str
    mask_path: str
    group: str
    sha256: str
    mask_sha256: str
    batch: int


@dataclass(frozen=True)
class Catalog:
    """The rows of a line, sorted by path."""

    rows: tuple[CatalogRow, ...]

    def to_bytes(self) -> bytes:
        """UTF-8 CSV with a header; the same rows give the same bytes."""
        stream = io.StringIO()
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(field.name for field in fields(CatalogRow))
        table.writerows(astuple(row) for row in self.rows)
        return stream.getvalue().encode()

    def digest(self) -> str:
        """sha256 of :meth:`to_bytes`: the version of the data."""
        return sha256_bytes(self.to_bytes())

    def write(self, path: Path) -> None:
        """Write the table atomically.

        Raises:
            UserError: it cannot be written.
        """
        write_bytes_atomic(path, self.to_bytes())

    def stage(self, path: Path) -> None:
        """Write the table beside ``path``, to take its place in :func:`publish`.

        Raises:
            UserError: it cannot be written.
        """
        write_bytes_atomic(_staged(path, self.digest()), self.to_bytes())

    def scan(self) -> Scan:
        """The rows as an adapter would have found them."""
        return Scan(
            tuple(
                Record(row.path, row.split, row.label, row.defect_type, row.mask_path, group=row.group)
                for row in self.rows
            ),
            {},
        )

    @classmethod
    def of(cls, rows: Iterable[CatalogRow]) -> Catalog:
        """A catalogue of ``rows`` in any order."""
        return cls(tuple(sorted(rows, key=lambda row: row.path)))

    @classmethod
    def read(cls, path: Path, sha256: str | None = None) -> Catalog:
        """The catalogue stored at ``path``, or staged for it, which must have the hash ``sha256`` if one is given.

        Raises:
            UserError: missing, not such a table, changed since ``sha256`` was noted, or a row that cannot be.
        """
        path = _current(path, sha256)
        try:
            content = path.read_bytes()
            reader = csv.reader(io.StringIO(content.decode("utf-8-sig")), strict=True)
            header, *table = list(reader)
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; the line's catalogue is under version control, get it back"
            ) from None
        except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
            raise UserError(f"{path}: cannot be read as CSV: {error}") from None
        if header != [field.name for field in fields(CatalogRow)]:
            raise UserError(f"{path}: not a catalogue: columns {_shown(', '.join(header))}")
        rows = tuple(_row(path, number, values) for number, values in enumerate(table, start=2))
        for before, row in itertools.pairwise(rows):
            if row.path <= before.path:
                raise UserError(f"{path}: {_shown(row.path)}: rows out of order or repeated")
        if sha256 is not None and sha256_bytes(content) != sha256:
            raise UserError(
                f"{path}: not the catalogue that `data.catalog_sha256` names; get that version back, or change "
                "the line's images with `stlm lines update` only"
            )
        return cls(rows)


def publish(path: Path, sha256: str) -> None:
    """Give the staged catalogue with the hash ``sha256`` the place of ``path``; drop others that were staged.

    Nothing happens when none is staged, so that it can be done again after a kill.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        staged = _staged(path, sha256)
        if staged.is_file():
            os.replace(staged, path)
        for other in path.parent.glob(f".{path.name}.staged-*"):
            other.unlink()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def catalog_bytes(config: LineConfig) -> bytes | None:
    """The file that :func:`open_catalog` reads, as it is; None for a line without.

    Raises:
        UserError: see :meth:`Catalog.read`.
    """
    if open_catalog(config) is None:
        return None
    return _current(config.resolve(config.data.catalog or ""), config.data.catalog_sha256).read_bytes()


def open_catalog(config: LineConfig) -> Catalog | None:
    """The line's catalogue; None for a line whose folder is read as it is.

    Raises:
        UserError: see :meth:`Catalog.read`.
    """
    if config.data.catalog is None:
        return None
    return Catalog.read(config.resolve(config.data.catalog), config.data.catalog_sha256)


def scan_folder(config: LineConfig) -> Scan:
    """What the line's folder holds now, whatever its catalogue says.

    Raises:
        UserError: see :meth:`stlm_core.data.adapters.base.Adapter.scan`.
    """
    return find_adapter(config.data.format).scan(config.resolve(config.data.path), config.data.category)


def _current(path: Path, sha256: str | None) -> Path:
    """``path``, or what is staged for it if that has the hash ``sha256``."""
    return path if sha256 is None or not _staged(path, sha256).is_file() else _staged(path, sha256)


def _staged(path: Path, sha256: str) -> Path:
    return path.with_name(f".{path.name}.staged-{sha256[:32]}")


def _shown(text: str) -> str:
    """``text`` for a message: one short line, whatever it is."""
    return printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _row(path: Path, number: int, values: list[str]) -> CatalogRow:
    where = f"{path}: row {number}"
    if len(values) != len(fields(CatalogRow)):
        raise UserError(f"{where}: {len(values)} columns instead of {len(fields(CatalogRow))}")
    image, split, label, defect_type, mask_path, group, sha256, mask_sha256, batch = values
    if not all(stays_inside(name) for name in (image, mask_path or "mask")):
        raise UserError(f"{where}: a path that leaves the line's folder")
    if split not in ("train", "test") or label not in ("0", "1") or (split == "train" and label == "1"):
        raise UserError(f"{where}: split {_shown(split)!r} with label {_shown(label)!r}")
    if not _SHA256.fullmatch(sha256) or not (_SHA256.fullmatch(mask_sha256) or not (mask_sha256 or mask_path)):
        raise UserError(f"{where}: a sha256 that is none")
    if not re.fullmatch(r"[0-9]{1,9}", batch):
        raise UserError(f"{where}: batch {_shown(batch)!r} is not a number")
    side: Literal["train", "test"] = "train" if split == "train" else "test"
    return CatalogRow(image, side, int(label), defect_type, mask_path, group, sha256, mask_sha256, int(batch))
