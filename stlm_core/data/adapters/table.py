"""A CSV or Parquet table that lists images anywhere: beside it, elsewhere on this machine, or in S3."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from stlm_core.data.adapters.base import Ignored, Record, Scan, finish_scan, no_category, path_problem, with_problem
from stlm_core.data.adapters.mvtec import GOOD
from stlm_core.data.adapters.table_file import SUFFIXES, Row, read_rows
from stlm_core.data.images import IMAGE_SUFFIXES
from stlm_core.errors import UserError

_LABELS = {
    **dict.fromkeys(("0", "good", "ok", "normal", "false"), 0),
    **dict.fromkeys(("1", "bad", "defect", "defective", "anomaly", "anomalous", "ng", "true"), 1),
}
_DEFECT = "defect"
_NAMES = ("manifest", "images")
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?P<key>[^?#]+)")
_OTHER_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LONGEST_NAME = 100  # characters of a file's name that are kept for a copy


class TableAdapter:
    """A table with the column ``path``; ``split``, ``label``, ``defect_type``, ``mask_path``, ``group`` are optional.

    Paths are relative to the table's folder, absolute, or ``s3://bucket/key``. Without a label an image is good unless
    the row names a defect type; without a split good images are for training and defective ones for the test. Images
    outside the table's folder are imported as ``external/<hash of the path>/<name>``.

    A folder in place of the table must hold one of ``manifest.csv``, ``manifest.parquet``, ``images.csv`` and
    ``images.parquet``.
    """

    summary: ClassVar[str] = "a CSV or Parquet table: path, split, label, defect_type, mask_path, group"
    masks: ClassVar[bool] = True

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`; paths are relative to the folder of the table."""
        no_category(root, category)
        table = _table_file(root)
        records: list[Record] = []
        rows: dict[str, int] = {}
        ignored = Ignored()
        for number, row in read_rows(table):
            record = _record(table, number, row)
            if record.path in rows:
                raise UserError(f"{table}: row {number}: {row['path']} is in row {rows[record.path]} already")
            if row["mask_path"] and not record.label:
                ignored["mask of a good image"] += 1
            rows[record.path] = number
            records.append(record)
        return finish_scan(table, records, ignored)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file is: its path in the line, and where to copy it from if that is not the table's folder."""

    path: str
    source: str = ""
    problem: str = ""


def _table_file(root: Path) -> Path:
    try:
        root = root.resolve(strict=True)
    except (OSError, RuntimeError):
        raise UserError(f"{root}: no such table") from None
    if root.is_dir():
        names = [f"{name}{suffix}" for name in _NAMES for suffix in SUFFIXES]
        found = [name for name in names if (root / name).is_file()]
        if len(found) != 1:
            seen = f"both {found[0]} and {found[1]}" if found else f"no {', '.join(names[:-1])} or {names[-1]}"
            raise UserError(f"{root}: {seen}; name the table itself, or leave one of them in the folder")
        return (root / found[0]).resolve()
    if root.suffix.lower() not in SUFFIXES:
        raise UserError(f"{root}: not a table; it must be a .csv or a .parquet file")
    return root


def _record(table: Path, number: int, row: Row) -> Record:
    where = f"{table}: row {number}"
    if not row["path"]:
        raise UserError(f"{where}: no path")
    label, defect = _label(where, row)
    split = row["split"] or ("test" if label else "train")
    if split not in ("train", "test"):
        raise UserError(f"{where}: split {split!r}, it must be train, test or empty")
    if split == "train" and label:
        raise UserError(f"{where}: a defective image for training; training is on good images only")
    image = _place(table.parent, where, row["path"])
    record = Record(
        image.path,
        "train" if split == "train" else "test",
        label,
        defect,
        problem=image.problem,
        group=row["group"],
        source=image.source,
    )
    if not label or not row["mask_path"]:
        return record
    mask = _place(table.parent, where, row["mask_path"])
    if mask.path == image.path:
        raise UserError(f"{where}: mask_path is the image itself")
    if mask.problem:
        return with_problem(record, f"its mask {row['mask_path']}: {mask.problem}")
    return replace(record, mask_path=mask.path, mask_source=mask.source)


def _label(where: str, row: Row) -> tuple[int, str]:
    """Label and defect type."""
    said, defect = row["label"].lower(), row["defect_type"]
    if "/" in defect:
        raise UserError(f"{where}: defect_type {defect!r} with a slash; defect types also name folders")
    if said and said not in _LABELS:
        raise UserError(f"{where}: label {row['label']!r}, it must be good or 0, bad or 1, or empty")
    if not said and not defect and row["mask_path"]:
        raise UserError(f"{where}: a mask, but neither label nor defect_type")
    label = _LABELS[said] if said else int(defect not in ("", GOOD))
    if defect and bool(label) == (defect == GOOD):
        raise UserError(f"{where}: label {row['label']!r} contradicts defect_type {defect!r}")
    return label, defect or (_DEFECT if label else GOOD)


def _place(folder: Path, where: str, named: str) -> _Place:
    if named.startswith("s3://"):
        found = _S3.fullmatch(named)
        if found is None:  # not shown: it may hold a password
            raise UserError(f"{where}: not an S3 address; it must be s3://bucket/key")
        return _Place(_copy_path(named), named, _suffix_problem(found["key"]))
    if _OTHER_ADDRESS.match(named):
        raise UserError(f"{where}: an address that is not s3://bucket/key; download the file first")
    absolute = os.path.normpath(folder / named)
    real = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    for path in (absolute, real):
        if path.startswith(f"{folder}{os.sep}"):
            inside = Path(path).relative_to(folder).as_posix()
            return _Place(inside, problem=path_problem(folder, inside) or _suffix_problem(inside))
    return _Place(_copy_path(absolute), absolute, _file_problem(absolute) or _suffix_problem(absolute))


def _copy_path(source: str) -> str:
    name = PurePosixPath(source).name[-_LONGEST_NAME:]
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    return f"external/{digest}/{'file' if name in ('', '..') else name}"


def _file_problem(path: str) -> str:
    try:
        return "" if stat.S_ISREG(os.stat(path).st_mode) else "not a regular file"
    except OSError:
        return "no such file"


def _suffix_problem(path: str) -> str:
    if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
        return ""
    return f"not an image by its name, which must end in one of {', '.join(sorted(IMAGE_SUFFIXES))}"
