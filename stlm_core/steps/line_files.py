"""What a line consists of beside its images: catalogue, description of its imports, quarantine list, DVC's pointer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stlm_core.config import LineConfig
from stlm_core.data.catalog import CatalogRow
from stlm_core.data.facts import FOLDER
from stlm_core.data.inspection import Inspected
from stlm_core.errors import StlmError, UserError
from stlm_core.files import read_json_object, write_bytes_atomic, write_json_atomic
from stlm_core.integrations.versioning import track

RECORDS = Path("data") / "lines"  # relative to the folder of params.yaml
_VERSION = 1
Mode = Literal["copy", "reference"]


@dataclass(frozen=True, slots=True)
class LineFolder:
    """``data/lines/<name>`` of a project."""

    path: Path

    @classmethod
    def of(cls, project: Path, name: str) -> LineFolder:
        """The folder of line ``name``, whether or not it exists."""
        return cls(project / RECORDS / name)

    @property
    def catalog(self) -> Path:
        return self.path / "catalog.csv"

    @property
    def imports(self) -> Path:
        return self.path / "line.json"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def quarantine(self) -> Path:
        return self.path / "quarantine.csv"

    @property
    def pointer(self) -> Path:
        return self.path / "images.dvc"

    @property
    def ignore(self) -> Path:
        """What DVC tells git to pass over."""
        return self.path / ".gitignore"

    def to_commit(self) -> list[Path]:
        """The files of the folder that belong under version control, those that exist.

        DVC's pointer is not among them when the line's images are referenced: it is that of a copy given up.
        """
        copied = LineInfo.read(self.imports).mode == "copy"
        listed = (self.catalog, self.imports, self.quarantine, *([self.pointer] if copied else []), self.ignore)
        return [path for path in listed if path.is_file()]


@dataclass(frozen=True, slots=True)
class Import:
    """One batch of a line: where it came from. ``source`` is relative to the project; None: an installed package."""

    batch: int
    source: str | None
    format: str
    category: str | None


@dataclass(frozen=True, slots=True)
class LineInfo:
    """``line.json``. ``mode``: whether the images were copied, or are referenced where they are."""

    mode: Mode
    imports: tuple[Import, ...]

    def with_import(self, new: Import) -> LineInfo:
        """This with one more batch; what a killed update noted of the same batch is replaced."""
        return replace(self, imports=(*(each for each in self.imports if each.batch < new.batch), new))

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            UserError: it cannot be written.
        """
        write_json_atomic(
            path, {"version": _VERSION, "mode": self.mode, "imports": [asdict(each) for each in self.imports]}
        )

    @classmethod
    def read(cls, path: Path) -> LineInfo:
        """The file's content.

        Raises:
            UserError: missing, or not such a file.
        """
        remedy = "get it back from version control, or add the line again with --force"
        value = read_json_object(path, remedy)
        try:
            if value["version"] != _VERSION or value["mode"] not in ("copy", "reference") or not value["imports"]:
                raise ValueError
            return cls(value["mode"], tuple(_import(each) for each in value["imports"]))
        except (LookupError, TypeError, ValueError):
            raise UserError(f"{path}: not the description of a line's imports: {_short(value)}; {remedy}") from None


def write_quarantine(path: Path, rows: Sequence[Inspected]) -> None:
    """List the files that were left out, with the reason, as CSV; without any the list goes.

    Raises:
        UserError: it cannot be written.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(("path", "split", "defect_type", "reason"))
    for row in rows:
        table.writerow((row.path, "test" if row.split == "test" else "train", row.defect_type, reason(row)))
    write_bytes_atomic(path, stream.getvalue().encode())


def reason(row: Inspected) -> str:
    """Why the image or its mask cannot be used; "" if they can."""
    return row.problem or row.mask_problem


def catalog_row(row: Inspected, batch: int, prefix: str = "") -> CatalogRow:
    """The catalogue's row of a usable image whose file and mask lie in the folder ``prefix`` of the line's images."""
    return CatalogRow(
        prefix + row.path,
        "test" if row.split == "test" else "train",
        row.label,
        row.defect_type,
        prefix + row.mask_path if row.mask_path else "",
        row.group,
        row.sha256,
        row.mask_sha256,
        batch,
    )


def images_store(config: LineConfig) -> Path:
    """Where the facts of the line's images are kept."""
    return config.root / FOLDER / f"{config.name}.parquet"


def source_store(config: LineConfig) -> Path:
    """Where the facts of the images in the dataset that the line was copied from are kept."""
    return config.root / FOLDER / f"{config.name}.source.parquet"


def track_images(folder: LineFolder) -> tuple[Path | None, str]:
    """DVC's pointer to the line's images, None outside a DVC project; and why DVC could not track them."""
    try:
        return track(folder.images), ""
    except StlmError as error:
        return None, str(error)


def _import(value: Any) -> Import:
    found = Import(**value)
    if not isinstance(found.batch, int) or not all(
        each is None or isinstance(each, str) for each in (found.source, found.category)
    ):
        raise ValueError
    if not isinstance(found.format, str):
        raise ValueError
    return found


def _short(value: Any) -> str:
    return json.dumps(value)[:80]
