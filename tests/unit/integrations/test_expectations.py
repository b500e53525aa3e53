"""Rules on inspected lines: what fails, for which files, and what Data Docs show."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stlm_core.config import LineConfig, load_line
from stlm_core.data.inspection import Inspected, Inspection
from stlm_core.integrations.expectations import ValidationReport, validate_inspection

Check = Callable[..., ValidationReport]


def row(index: int, **changes: Any) -> Inspected:
    split = "calibration" if index % 5 == 0 else "validation" if index % 5 == 1 else "train"
    facts: dict[str, Any] = {
        "path": f"train/good/{index:03d}.png",
        "split": split,
        "label": 0,
        "defect_type": "good",
        "mask_path": "",
        "group": "",
        "sha256": f"{index:064x}",
        "bytes": 100,
        "width": 64,
        "height": 48,
        "mode": "RGB",
    }
    return Inspected(**{**facts, **changes})


def anomalous(index: int, **changes: Any) -> Inspected:
    path = f"test/dent/{index:03d}.png"
    return row(1000 + index, **{"path": path, "split": "test", "label": 1, "defect_type": "dent", **changes})


GOOD = [row(index) for index in range(20)]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run(rows: list[Inspected], **rules: Any) -> ValidationReport:
        config = _config(tmp_path, rules)
        return validate_inspection(Inspection(tmp_path, tuple(rows), {}), config, tmp_path / "docs")

    return run


def _config(folder: Path, rules: dict[str, Any]) -> LineConfig:
    import yaml

    params = folder / "params.yaml"
    line = {"data": {"path": "images"}, "validate": rules}
    params.write_text(yaml.safe_dump({"defaults": {}, "profiles": {"cpu": {}}, "lines": {"line": line}}))
    return load_line(params, "line")


def test_a_valid_line_passes_every_rule(check: Check) -> None:
    report = check([*GOOD, anomalous(0, mask_path="ground_truth/dent/000_mask.png")])
    assert report.success
    assert report.failures() == ()
    assert len(report.rules) == 11


CASES: dict[str, tuple[list[Inspected], dict[str, Any], str, tuple[str, ...]]] = {
    "unreadable": (
        [*GOOD, row(50, problem="damaged", sha256="", width=0, height=0, mode="")],
        {},
        "readable",
        ("train/good/050.png (damaged)",),
    ),
    "mask": ([*GOOD, anomalous(0, mask_problem="no mask")], {}, "masks", ("test/dent/000.png (no mask)",)),
    "size": ([*GOOD, row(50, height=31)], {}, "size", ("train/good/050.png (31 pixels)",)),
    "mode": ([*GOOD, row(50, mode="CMYK")], {"allow_mixed_modes": True}, "mode", ("train/good/050.png (CMYK)",)),
    "mixed modes": ([*GOOD, row(50, mode="L")], {}, "one_mode", ("train/good/050.png (L, not RGB)",)),
    "duplicate within": (
        [*GOOD, row(50, split="train", sha256=f"{2:064x}")],
        {"allow_duplicates_within_split": False},
        "duplicates_within",
        (
            "train/good/002.png (same bytes as train/good/050.png)",
            "train/good/050.png (same bytes as train/good/002.png)",
        ),
    ),
    "duplicate across": (
        [*GOOD, row(50, path="test/good/0.png", split="test", sha256=f"{2:064x}")],
        {},
        "duplicates_across",
        ("train/good/002.png (same bytes as test/good/0.png)", "test/good/0.png (same bytes as train/good/002.png)"),
    ),
    "contradiction": (
        [*GOOD, anomalous(0), row(50, path="test/good/0.png", split="test", sha256=f"{1000:064x}")],
        {},
        "contradictions",
        ("test/dent/000.png (same bytes as test/good/0.png)", "test/good/0.png (same bytes as test/dent/000.png)"),
    ),
    "group across": (
        [*GOOD[1:], row(0, group="p7"), anomalous(0, group="p7")],
        {},
        "groups",
        ("train/good/000.png (same part as test/dent/000.png)", "test/dent/000.png (same part as train/good/000.png)"),
    ),
    "too few": (GOOD[:19], {}, "enough_good", ()),
    "no calibration": ([replace(one, split="validation") for one in GOOD], {}, "calibration", ()),
}


@pytest.mark.parametrize("name", CASES)
def test_broken_rules_name_their_files(check: Check, name: str) -> None:
    rows, rules, expected, files = CASES[name]
    failures = {rule.rule: rule for rule in check(rows, **rules).failures()}
    assert expected in failures
    assert failures[expected].files == files
    assert failures[expected].reason
    assert set(failures) == {expected}


def test_counts_are_given_in_the_reason(check: Check) -> None:
    (failure,) = check(GOOD[:19]).failures()
    assert failure.asks == "There is at least 20 good training images"
    assert failure.reason == "there are 19"


def test_only_ten_files_are_named_in_the_reason_and_all_in_the_result(check: Check) -> None:
    (failure,) = check([*GOOD, *(row(50 + index, width=8) for index in range(15))]).failures()
    assert failure.reason.startswith("15 images: train/good/050.png (8 pixels), ")
    assert failure.reason.endswith("and 5 more")
    assert len(failure.files) == 15


def test_docs_are_self_contained_and_name_the_files(check: Check, tmp_path: Path) -> None:
    check([*GOOD, row(50, width=8)])
    pages = {page: page.read_text() for page in (tmp_path / "docs").rglob("*.html")}
    assert len(pages) == 3
    for page, text in pages.items():
        assert not re.search(r"<(script|link|img|iframe)\b|https?://", text, re.IGNORECASE)
        for target in re.findall(r'href="([^"#]+)', text):
            assert (page.parent / target).is_file(), target
    assert any("train/good/050.png" in text for text in pages.values())
    assert {path.suffix for path in (tmp_path / "docs").rglob("*") if path.is_file()} == {".html"}


def test_file_names_are_text_and_not_markup(check: Check, tmp_path: Path) -> None:
    name = "train/good/<img src=x onerror=alert(1)>&.png"
    (failure,) = check([*GOOD, row(50, path=name, width=8)]).failures()
    assert failure.files == (f"{name} (8 pixels)",)
    text = "".join(page.read_text() for page in (tmp_path / "docs").rglob("*.html"))
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;.png" in text
