"""ELPV: electroluminescence photos of solar cells with a defect probability each, listed in ``labels.csv``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

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
)
from stlm_core.data.adapters.held_out import held_out
from stlm_core.data.adapters.layouts import wrong_layout
from stlm_core.data.adapters.mvtec import GOOD
from stlm_core.errors import UserError

_LABELS = "labels.csv"
# Of the data, of the package, of the folder the package is installed in, of its repository.
_HOMES = (".", "data", "elpv_dataset/data", "src/elpv_dataset/data")
_TYPES = ("mono", "poly")
_ALL = "all"
# The experts' certainty that a cell is defective, and the name it gets here; "" for too uncertain to test with.
_PROBABILITIES = ((0.0, GOOD), (1 / 3, ""), (2 / 3, "likely"), (1.0, "certain"))


class ElpvAdapter:
    """ELPV, of the categories "mono" and "poly" (the kind of cell) or "all" together. There are no masks.

    A probability of 0 is good; 2/3 and 1 are the defect types "likely" and "certain"; cells of 1/3 are passed over and
    counted. There is no official split: 20 % of the good cells, by a hash of their name, are for the test. The data do
    not say which cells belong to one solar module.
    """

    summary: ClassVar[str] = "ELPV solar cells: labels.csv and images/ (the data of the package elpv-dataset)"
    masks: ClassVar[bool] = False

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        home = next((home for home in _HOMES if os.path.isfile(root / home / _LABELS)), None)
        if home is None:
            raise wrong_layout(root, f"no file {_LABELS}", "elpv")
        cells = list(_cells(root / home / _LABELS))
        chosen = choose_category(root, (_ALL, *_TYPES), category)
        records, listed, ignored = [], set(), Ignored()
        for cell in cells:
            path = PurePosixPath(home, cell.path).as_posix()
            listed.add(path)
            if chosen not in (_ALL, cell.type):
                continue
            if not cell.defect:
                ignored["uncertain label"] += 1
                continue
            learn = cell.defect == GOOD and not held_out(PurePosixPath(path).name)
            split: Literal["train", "test"] = "train" if learn else "test"
            problem = path_problem(root, path)
            records.append(Record(printable(path), split, int(cell.defect != GOOD), cell.defect, problem=problem))
        if os.path.isdir(root / home / "images"):
            count_unused(root, root / home / "images", listed, ignored)
        return finish_scan(root, records, ignored)


@dataclass(frozen=True, slots=True)
class _Cell:
    """One line of the labels: path relative to them, defect type ("" if uncertain) and kind of cell."""

    path: str
    defect: str
    type: str


def _cells(path: Path) -> Iterator[_Cell]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        values = line.split()
        if not values:
            continue
        where = f"{path}: row {number}"
        if len(values) != 3:
            raise UserError(f"{where}: {len(values)} values, three are needed: path, probability, type")
        name, probability, kind = values
        name = PurePosixPath(name).as_posix()
        if not stays_inside(name):
            raise UserError(f"{where}: {printable(name)!r} leads out of the folder")
        if printable(name) in seen:
            raise UserError(f"{where}: {printable(name)} is in row {seen[printable(name)]} already")
        if kind not in _TYPES:
            raise UserError(f"{where}: type {printable(kind)!r}, it must be {' or '.join(_TYPES)}")
        seen[printable(name)] = number
        yield _Cell(name, _defect(where, probability), kind)


def _defect(where: str, probability: str) -> str:
    try:
        value = float(probability)
    except ValueError:
        value = math.nan
    for known, name in _PROBABILITIES:
        if math.isclose(value, known, abs_tol=0.005):  # the file also exists with 0.333 and 0.667
            return name
    raise UserError(f"{where}: probability {printable(probability)!r}, it must be 0, 1/3, 2/3 or 1")
