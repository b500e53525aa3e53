"""VisA's layout: images, masks and the official split are listed in ``split_csv/1cls.csv``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from stlm_core.data.adapters.base import (
    Ignored,
    Record,
    Scan,
    choose_category,
    count_unused,
    existing_folder,
    finish_scan,
    path_problem,
    printable,
    stays_inside,
    with_problem,
)
from stlm_core.data.adapters.layouts import wrong_layout
from stlm_core.data.adapters.mvtec import GOOD
from stlm_core.errors import UserError

_SPLIT = "split_csv/1cls.csv"
_SPLIT_COLUMNS = ("object", "split", "label", "image", "mask")
_TYPES_COLUMNS = ("image", "label")
_DEFECT = "anomaly"


class VisaAdapter:
    """VisA. The category is the ``object`` of ``split_csv/1cls.csv``, the one-class split, and the split is its own.

    The defect type is that of ``<category>/image_anno.csv``, or "anomaly" without that file; an image with several,
    as "bent,scratch", has the type "bent + scratch", whatever their order. Masks hold small class numbers; every pixel
    above 0 is anomalous. A row that names a file which is missing or elsewhere is listed with its problem.
    """

    summary: ClassVar[str] = "VisA: split_csv/1cls.csv with <category>/Data/Images and Masks"
    masks: ClassVar[bool] = True

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        if not os.path.isfile(root / _SPLIT):
            raise wrong_layout(root, f"no file {_SPLIT}", "visa")
        rows = list(_split_rows(root / _SPLIT))
        if not rows:
            raise UserError(f"{root / _SPLIT}: no rows")
        category = choose_category(root, sorted({row.category for row in rows}), category)
        types = _defect_types(root / category / "image_anno.csv")
        records, used, ignored = [], set(), Ignored()
        for row in rows:
            if row.category != category:
                continue
            used |= {row.image, row.mask}
            if row.split == "train" and row.anomalous:
                ignored["defective, in the training split"] += 1
            else:
                records.append(_record(root, row, types))
        if os.path.isdir(root / category):
            count_unused(root, root / category, used, ignored)
        return finish_scan(root, records, ignored)


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the split: paths as posix paths without redundant parts, "" for no mask."""

    number: int
    category: str
    split: str
    anomalous: bool
    image: str
    mask: str


def _record(root: Path, row: _Row, types: Mapping[str, str]) -> Record:
    where = f"{_SPLIT}: row {row.number}"
    if not stays_inside(row.image):
        # No path of an image can stand in the record; that of the row can be found.
        named = f"{_SPLIT}/row {row.number}"
        return Record(named, "test", 1, _DEFECT, problem=f"the image {printable(row.image)!r} leads out of the folder")
    defect = types.get(row.image, _DEFECT if row.anomalous else GOOD)
    problem = path_problem(root, row.image)
    record = Record(printable(row.image), "test", 1, defect, problem=f"{problem} ({where})" if problem else "")
    if row.anomalous != (defect != GOOD):
        said = "anomaly" if row.anomalous else "normal"
        record = replace(record, defect_type=_DEFECT)
        return with_problem(record, f"{_SPLIT} says {said}, image_anno.csv says {defect!r}")
    if not row.anomalous:
        return replace(record, split="train" if row.split == "train" else "test", label=0)
    if not row.mask:
        return record
    problem = path_problem(root, row.mask)
    if problem:
        return with_problem(record, f"its mask {printable(row.mask)}: {problem} ({where})")
    return replace(record, mask_path=row.mask)


def _split_rows(path: Path) -> Iterator[_Row]:
    seen: dict[str, int] = {}
    for number, row in _table(path, _SPLIT_COLUMNS):
        where = f"{path}: row {number}"
        category, split, label = row["object"], row["split"], row["label"]
        if not stays_inside(category) or "/" in category:
            raise UserError(f"{where}: object {printable(category)!r} is not the name of a folder")
        if split not in ("train", "test"):
            raise UserError(f"{where}: split {printable(split)!r}, it must be train or test")
        if label not in ("normal", "anomaly"):
            raise UserError(f"{where}: label {printable(label)!r}, it must be normal or anomaly")
        image, mask = _posix(row["image"]), _posix(row["mask"])
        if not image:
            raise UserError(f"{where}: no image")
        if image in seen:
            raise UserError(f"{where}: {printable(image)} is in row {seen[image]} already")
        seen[image] = number
        yield _Row(number, category, split, label == "anomaly", image, mask)


def _defect_types(path: Path) -> dict[str, str]:
    """Defect type by image, "good" for normal ones; empty if there is no such table."""
    if not os.path.isfile(path):
        return {}
    types = {}
    for number, row in _table(path, _TYPES_COLUMNS):
        names = sorted({printable(name.strip()) for name in row["label"].split(",")} - {""})
        if not names:
            raise UserError(f"{path}: row {number}: no label")
        types[_posix(row["image"])] = GOOD if names == ["normal"] else " + ".join(names)
    return types


def _table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, value by column without space around it) of each row of a CSV file; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, lacks one of ``columns``, or has a row of another length than the header.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for values in reader:
            stripped = [value.strip() for value in values]
            if not any(stripped):
                continue
            if header is None:
                header = stripped
                missing = [name for name in columns if name not in header]
                if missing:
                    raise UserError(f"{path}: row {reader.line_num}: no column {', '.join(missing)}")
            elif len(stripped) != len(header):
                raise UserError(f"{path}: row {reader.line_num}: {len(stripped)} values, {len(header)} are needed")
            else:
                yield reader.line_num, dict(zip(header, stripped, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: row {reader.line_num}: cannot be read as CSV: {error}") from None


def _posix(path: str) -> str:
    """``path`` without doubled slashes and single dots; "" stays "". It may still lead anywhere."""
    return PurePosixPath(path).as_posix() if path else ""
