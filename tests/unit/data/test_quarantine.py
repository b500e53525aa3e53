"""Which images cannot be used, and the list of them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stlm_core.data.inspection import Inspected, Inspection
from stlm_core.data.quarantine import Unusable, exclude, find_unusable, write_quarantine
from stlm_core.settings import ValidateConfig

GOOD = Inspected(
    "train/good/0.png", "train", 0, "good", "", "", "a" * 64, 100, 64, 48, "RGB", contrast=0.2, brightness=0.5
)
DEFECT = replace(GOOD, path="test/dent/0.png", split="test", label=1, mask_path="masks/0.png", mask_share=0.1)

CASES: dict[str, tuple[Inspected, dict[str, Any], list[tuple[str, str]]]] = {
    "good": (GOOD, {}, []),
    "defect": (DEFECT, {}, []),
    "unreadable": (
        replace(GOOD, problem="the file is empty", mode="?", width=1),
        {},
        [("readable", "the file is empty")],
    ),
    "no mask": (replace(DEFECT, mask_problem="no mask", mask_share=1.0), {}, [("masks", "no mask")]),
    "small": (replace(GOOD, height=31), {}, [("size", "64 x 31 pixels, sides of at least 32 are needed")]),
    "large": (
        replace(GOOD, height=900),
        {"max_side": 800},
        [("size", "64 x 900 pixels, sides of at most 800 are allowed")],
    ),
    "long": (replace(GOOD, width=480), {"max_aspect": 4}, [("size", "480 x 48 pixels, 10.00 times as long as wide")]),
    "mode": (replace(GOOD, mode="CMYK"), {}, [("mode", "mode CMYK")]),
    "blank": (replace(GOOD, contrast=0.0099), {}, [("blank", "contrast 0.0099")]),
    "both": (replace(GOOD, contrast=0.0, mode="P"), {}, [("mode", "mode P"), ("blank", "contrast 0.0000")]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_reason_is_found(tmp_path: Path, name: str) -> None:
    row, rules, expected = CASES[name]
    found = find_unusable(Inspection(tmp_path, (row,), {}), ValidateConfig(**rules))
    assert found == tuple(Unusable(row.path, rule, reason, row.sha256) for rule, reason in expected)


def test_excluded_images_are_gone_and_the_others_are_not(tmp_path: Path) -> None:
    bad = replace(GOOD, path="train/good/1.png", contrast=0.0, mode="P")
    inspection = Inspection(tmp_path, (GOOD, bad), {"hidden": 1})
    kept = exclude(inspection, find_unusable(inspection, ValidateConfig()))
    assert kept == Inspection(tmp_path, (GOOD,), {"hidden": 1})


def test_the_list_is_a_table_with_a_header(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.csv"
    write_quarantine(file, ())
    assert file.read_text() == "path,rule,reason,sha256\n"
    write_quarantine(file, (Unusable('a,"b\n.png', "readable", "damaged, truncated", ""),))
    rows = list(csv.reader(file.open(newline="")))
    assert rows[1] == ['a,"b\\n.png', "readable", "damaged, truncated", ""]
    assert len(rows) == 2
