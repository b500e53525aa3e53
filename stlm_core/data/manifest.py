"""The manifest: one typed, sorted row an image, stored as Parquet. Owner of its schema."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import operator
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stlm_core.config import LineConfig
from stlm_core.data.adapters.base import printable, stays_inside
from stlm_core.data.inspection import Inspection, inspect_line, name_files
from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic

SPLITS = ("train", "validation", "calibration", "test")
_ROW_GROUP = 16_384
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("defect_type", pa.string(), nullable=False),
        pa.field("mask_path", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("mask_sha256", pa.string(), nullable=False),
        pa.field("phash", pa.string(), nullable=False),
        pa.field("brightness", pa.float64(), nullable=False),
        pa.field("contrast", pa.float64(), nullable=False),
        pa.field("sharpness", pa.float64(), nullable=False),
        pa.field("saturated", pa.float64(), nullable=False),
    ],
    metadata={"stlm_manifest_version": "2"},
)


_identity = operator.attrgetter("path", "split", "label", "defect_type", "mask_path", "group", "sha256", "mask_sha256")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image. Paths are posix, relative to the line's data folder; ``mask_path`` and ``group`` are "" for none.

    ``label`` is 0 (good) or 1 (anomalous), ``width`` and ``height`` are pixels after EXIF orientation, ``mode`` is
    Pillow's name of the stored mode, ``sha256`` and ``bytes`` describe the file. ``mask_sha256`` is "" for no mask,
    and one for all files of a folder of masks. The last five are those of
    :class:`stlm_core.data.statistics.ImageStatistics`.
    """

    path: str
    split: str
    label: int
    defect_type: str
    mask_path: str
    group: str
    sha256: str
    bytes: int
    width: int
    height: int
    mode: str
    mask_sha256: str = ""
    phash: str = ""
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    saturated: float = 0.0


@dataclass(frozen=True)
class Manifest:
    """The rows of a line, sorted by path, and the folder that their paths start from."""

    root: Path
    rows: tuple[ManifestRow, ...]

    def train(self) -> tuple[ManifestRow, ...]:
        """Good images the network learns from."""
        return self.split("train")

    def validation(self) -> tuple[ManifestRow, ...]:
        """Good images for choosing among checkpoints."""
        return self.split("validation")

    def calibration(self) -> tuple[ManifestRow, ...]:
        """Good images for the operating point."""
        return self.split("calibration")

    def test(self) -> tuple[ManifestRow, ...]:
        """Good and anomalous images that only the evaluation sees."""
        return self.split("test")

    def split(self, name: str) -> tuple[ManifestRow, ...]:
        """Rows of one of :data:`SPLITS`."""
        return self._by_split[name]

    def image_path(self, row: ManifestRow) -> Path:
        """Absolute path of the row's image."""
        return self.root / row.path

    def mask_path(self, row: ManifestRow) -> Path | None:
        """Absolute path of the row's mask, if it has one."""
        return self.root / row.mask_path if row.mask_path else None

    @functools.cached_property
    def _by_split(self) -> dict[str, tuple[ManifestRow, ...]]:
        return {name: tuple(row for row in self.rows if row.split == name) for name in SPLITS}

    def to_bytes(self) -> bytes:
        """The Parquet file: the same rows give the same bytes (with one version of pyarrow)."""
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
            for start in range(0, len(self.rows), _ROW_GROUP):
                group = self.rows[start : start + _ROW_GROUP]
                columns = [[getattr(row, name) for row in group] for name in SCHEMA.names]
                writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        return sink.getvalue()

    def write(self, path: Path) -> None:
        """Write the Parquet file atomically.

        Raises:
            UserError: it cannot be written.
        """
        write_bytes_atomic(path, self.to_bytes())

    def digest(self) -> str:
        """sha256 of which images there are and what they are for, whatever was measured and wherever they lie."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr(_identity(row)).encode())
        return digest.hexdigest()

    @classmethod
    def read(cls, path: Path, root: Path) -> Manifest:
        """The manifest stored at ``path``, for the images under ``root``.

        Raises:
            UserError: missing, not Parquet, not exactly :data:`SCHEMA`, or values no manifest has (an unknown
                split or label, a path that leaves ``root``, rows out of order or repeated).
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise UserError(f"{path}: no such file; `stlm validate` makes it") from None
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        rows = _parse(path, content)
        if problem := _row_problem(rows):
            raise UserError(f"{path}: {problem}; run `stlm validate` again")
        return cls(root, rows)


def _parse(path: Path, content: bytes) -> tuple[ManifestRow, ...]:
    try:
        table = pq.read_table(io.BytesIO(content))
        if not table.schema.equals(SCHEMA):
            raise UserError(
                f"{path}: not a manifest of this version: columns {table.schema.names}, expected {SCHEMA.names} "
                "with their types; run `stlm validate` again"
            )
        return tuple(row for batch in table.to_batches(_ROW_GROUP) for row in _rows(batch))
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:  # text that is not UTF-8 shows up late
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a Parquet file: {printable(reason)}; run `stlm validate` again") from None


def _rows(batch: pa.RecordBatch) -> Iterator[ManifestRow]:
    columns = dict(zip(SCHEMA.names, (column.to_pylist() for column in batch.columns), strict=True))
    for name in ("split", "defect_type", "group", "mode"):  # few different values: one object for each
        columns[name] = [sys.intern(value) for value in columns[name]]
    return itertools.starmap(ManifestRow, zip(*columns.values(), strict=True))


def build_manifest(config: LineConfig) -> Manifest:
    """Read every image of the line and list it.

    Raises:
        UserError: the folder is not in the configured layout, or images or masks cannot be used: all of them are
            counted and the first ten named.
    """
    return manifest_of(inspect_line(config))


def manifest_of(inspection: Inspection) -> Manifest:
    """The manifest of an inspected line.

    Raises:
        UserError: images or masks cannot be used: all of them are counted and the first ten named.
    """
    bad = [
        f"{row.path} ({row.problem or row.mask_problem})" for row in inspection.rows if row.problem or row.mask_problem
    ]
    if bad:
        raise UserError(f"{inspection.root}: unusable images, {len(bad)} in all: {name_files(bad)}")
    values = operator.attrgetter(*SCHEMA.names)
    return Manifest(inspection.root, tuple(ManifestRow(*values(row)) for row in inspection.rows))


def _row_problem(rows: tuple[ManifestRow, ...]) -> str:
    previous = ""
    for row in rows:
        if row.split not in SPLITS:
            return f"{printable(row.path)}: unknown split {row.split!r}"
        if row.label not in (0, 1) or (row.split != "test" and row.label != 0):
            return f"{printable(row.path)}: label {row.label} in split {row.split}"
        if row.path <= previous:
            return f"{printable(row.path)}: rows out of order or repeated"
        if not all(stays_inside(path) for path in (row.path, row.mask_path or "mask")):
            return f"{printable(row.path)}: a path that leaves the data folder"
        previous = row.path
    return ""
