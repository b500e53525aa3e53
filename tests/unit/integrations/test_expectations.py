"""Rules on inspected lines: what fails, for which files, and what the context and the Data Docs hold."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from stlm_core.config import LineConfig, load_line
from stlm_core.data.drift import TrainingStatistics
from stlm_core.data.inspection import Inspected, Inspection
from stlm_core.data.quarantine import find_unusable
from stlm_core.integrations.expectation_rules import ValidationReport
from stlm_core.integrations.expectations import validate_inspection

Check = Callable[..., ValidationReport]


def row(index: int, **changes: Any) -> Inspected:
    """A good image; its picture is noise of its own, so that it resembles no other."""
    split = "calibration" if index % 5 == 0 else "validation" if index % 5 == 1 else "train"
    noise = np.random.default_rng(index)
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
        "phash": noise.bytes(8).hex(),
        "brightness": 0.5 + index % 7 / 100,
        "contrast": 0.2,
        "sharpness": 80.0,
        "saturated": 0.01,
        "thumbnail": noise.bytes(256),
    }
    return Inspected(**{**facts, **changes})


def anomalous(index: int, **changes: Any) -> Inspected:
    path = f"test/dent/{index:03d}.png"
    return row(1000 + index, **{"path": path, "split": "test", "label": 1, "defect_type": "dent", **changes})


GOOD = [row(index) for index in range(20)]
REFERENCE = TrainingStatistics.of(GOOD)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run(rows: list[Inspected], *, reference: TrainingStatistics | None = None, **rules: Any) -> ValidationReport:
        config = _config(tmp_path, rules)
        inspection = Inspection(tmp_path, tuple(rows), {})
        quarantined = find_unusable(inspection, config.validate_) if rules.get("unusable") == "quarantine" else ()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return validate_inspection(inspection, config, tmp_path / "out", quarantined=quarantined, reference=reference)

    return run


def _config(folder: Path, rules: dict[str, Any]) -> LineConfig:
    params = folder / "params.yaml"
    line = {"data": {"path": "images"}, "validate": rules}
    params.write_text(yaml.safe_dump({"defaults": {}, "profiles": {"fast": {}}, "lines": {"line": line}}))
    return load_line(params, "line")


def _broken(report: ValidationReport) -> set[str]:
    return {rule.rule for rule in report.rules if not rule.success}


def test_a_valid_line_passes_every_rule(check: Check) -> None:
    report = check([*GOOD, anomalous(0, mask_path="ground_truth/dent/000_mask.png", mask_share=0.1)])
    assert report.success
    assert [rule.rule for rule in report.rules] == [
        "schema",
        "readable",
        "masks",
        "mask_share",
        "size",
        "mode",
        "blank",
        "duplicates_across",
        "contradictions",
        "groups",
        "near_duplicates",
        "near_duplicates_within",
        "duplicates_within",
        "enough_good",
        "calibration",
        "validation",
        "one_mode",
    ]
    assert _broken(report) == set()
    assert (report.failures(), report.warnings(), report.notes()) == ((), (), ())


CASES: dict[str, tuple[list[Inspected], dict[str, Any], str, tuple[str, ...]]] = {
    "unreadable": (
        [*GOOD, row(50, problem="damaged", sha256="", width=0, height=0, mode="")],
        {},
        "readable",
        ("train/good/050.png (damaged)",),
    ),
    "mask": ([*GOOD, anomalous(0, mask_problem="no mask")], {}, "masks", ("test/dent/000.png (no mask)",)),
    "size": (
        [*GOOD, row(50, height=31)],
        {},
        "size",
        ("train/good/050.png (64 x 31 pixels, sides of at least 32 are needed)",),
    ),
    "large": (
        [*GOOD, row(50, width=900)],
        {"max_side": 800},
        "size",
        ("train/good/050.png (900 x 48 pixels, sides of at most 800 are allowed)",),
    ),
    "long": (
        [*GOOD, row(50, width=480)],
        {"max_aspect": 2},
        "size",
        ("train/good/050.png (480 x 48 pixels, 10.00 times as long as wide)",),
    ),
    "blank": ([*GOOD, row(50, contrast=0.001)], {}, "blank", ("train/good/050.png (contrast 0.0010)",)),
    "near-duplicate": (
        [*GOOD, row(50, path="test/good/0.png", split="test", thumbnail=GOOD[2].thumbnail, phash=GOOD[2].phash)],
        {"near_duplicates": "fail"},
        "near_duplicates",
        (
            "train/good/002.png (looks the same as test/good/0.png, similarity 1.000)",
            "test/good/0.png (looks the same as train/good/002.png, similarity 1.000)",
        ),
    ),
    "few good test images": ([*GOOD, anomalous(0)], {"min_test_good": 1}, "test_good", ()),
    "few defects": (GOOD, {"min_test_defects": 1}, "test_defects", ()),
    "quarantine": (
        [*GOOD, row(50, contrast=0.0, mode="P"), row(51, problem="damaged", sha256="")],
        {"unusable": "quarantine", "max_quarantined": 0.05},
        "quarantine_share",
        (),
    ),
    "mode": ([*GOOD, row(50, mode="CMYK")], {"allow_mixed_modes": True}, "mode", ("train/good/050.png (mode CMYK)",)),
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
def test_broken_rules_name_their_files(check: Check, name: str, tmp_path: Path) -> None:
    rows, rules, expected, files = CASES[name]
    report = check(rows, **rules)
    failures = {rule.rule: rule for rule in report.failures()}
    assert set(failures) == {expected}
    assert failures[expected].files == files
    assert failures[expected].reason
    assert failures[expected].breach
    page = (tmp_path / "out" / "data_docs" / "index.html").read_text()
    assert failures[expected].breach[1:] in page
    assert ">Failed<" in page


def test_counts_are_given_in_the_reason(check: Check) -> None:
    (failure,) = check(GOOD[:19]).failures()
    assert failure.asks == "There are at least 20 good training images"
    assert failure.reason == "there are 19"
    assert failure.breach == "19 good training images, at least 20 needed"


def test_only_ten_files_are_named_in_the_reason_and_all_in_the_result(check: Check) -> None:
    (failure,) = check([*GOOD, *(row(50 + index, width=8) for index in range(15))]).failures()
    assert failure.reason.startswith("15 images: train/good/050.png (8 x 48 pixels, ")
    assert failure.reason.endswith("and 5 more")
    assert len(failure.files) == 15


def test_a_mask_that_marks_nearly_everything_is_a_warning(check: Check) -> None:
    masks = [anomalous(index, mask_path=f"{index}.png", mask_share=share) for index, share in enumerate((0.8, 0.95))]
    report = check([*GOOD, *masks], unusable="quarantine")
    (rule,) = report.warnings()
    assert rule.rule == "mask_share"
    assert rule.files == ("test/dent/001.png (1.png: 95.0% of the image is marked; is it inverted?)",)


@pytest.mark.parametrize(("level", "outcome"), [("warn", "warnings"), ("fail", "failures"), (False, None)])
def test_near_duplicates_warn_fail_or_are_not_looked_for(check: Check, level: object, outcome: str | None) -> None:
    """A bare `off` in YAML is false."""
    copy = row(50, path="test/good/0.png", split="test", thumbnail=GOOD[2].thumbnail, phash=GOOD[2].phash)
    report = check([*GOOD, copy], near_duplicates=level)
    assert _broken(report) == ({"near_duplicates"} if outcome else set())
    if outcome is not None:
        (rule,) = getattr(report, outcome)()
        assert rule.breach == "2 images that look the same in training and in test"


def test_what_is_twice_in_training_is_for_information(check: Check) -> None:
    copies = [
        row(50, split="train", sha256=GOOD[2].sha256),
        row(51, split="train", thumbnail=GOOD[3].thumbnail, phash=GOOD[3].phash),
    ]
    report = check([*GOOD, *copies])
    assert report.success
    assert report.warnings() == ()
    assert {rule.rule for rule in report.notes()} == {"near_duplicates_within", "duplicates_within"}


@pytest.mark.parametrize(("level", "outcome"), [("warn", "warnings"), ("fail", "failures"), ("off", None)])
def test_drift_warns_fails_or_is_not_looked_for(check: Check, level: str, outcome: str | None, tmp_path: Path) -> None:
    dark = [replace(one, brightness=one.brightness * 0.5) for one in GOOD]
    report = check(dark, reference=REFERENCE, drift=level)
    page = (tmp_path / "out" / "data_docs" / "index.html").read_text()
    assert ("compared with those the champion was trained on" in page) == (outcome is not None)
    if outcome is None:
        assert not any(rule.rule.endswith("_drift") for rule in report.rules)
        return
    (rule,) = getattr(report, outcome)()
    assert rule.rule == "brightness_drift"
    assert rule.reason.startswith("brightness 0.2")
    assert len(rule.findings) == 20
    assert [drift.statistic for drift in report.drift if drift.distance] == ["brightness"]


def test_a_few_images_out_of_range_are_found_among_many(check: Check) -> None:
    rows = [*GOOD[:18], *(row(50 + index, saturated=0.9) for index in range(2))]
    (rule,) = check(rows, reference=REFERENCE).warnings()
    assert rule.rule == "saturated_drift"
    assert rule.files[0] == "train/good/050.png (saturated 0.9)"
    assert check(rows, reference=REFERENCE, max_outside=0.2, max_drift=50).warnings() == ()


def test_unlike_test_images_are_no_drift(check: Check) -> None:
    assert check([*GOOD, anomalous(0, brightness=0.01, sharpness=1.0)], reference=REFERENCE).warnings() == ()


def test_images_in_quarantine_break_no_other_rule(check: Check) -> None:
    bad = [row(50, contrast=0.0, mode="P"), row(51, problem="damaged", sha256=""), anomalous(0, mask_problem="no mask")]
    report = check([*GOOD, *bad], unusable="quarantine", max_quarantined=0.2)
    assert report.success
    (rule,) = report.warnings()
    assert rule.breach == "3 images in quarantine"
    assert rule.files == (
        "train/good/050.png (mode P; contrast 0.0000)",
        "train/good/051.png (damaged)",
        "test/dent/000.png (no mask)",
    )


def test_everything_in_quarantine_fails(check: Check) -> None:
    report = check([row(index, contrast=0.0) for index in range(20)], unusable="quarantine")
    assert {"quarantine_share", "enough_good", "calibration"} <= {rule.rule for rule in report.failures()}


def test_the_context_can_be_moved_opened_and_run_again(check: Check, tmp_path: Path) -> None:
    import great_expectations as gx

    check([*GOOD, row(50, width=8)])
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes(), file
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    root = tmp_path / "elsewhere" / "gx"
    stored = json.loads((root / "checkpoint_result.json").read_text())
    assert stored["success"] is False
    context = gx.get_context(context_root_dir=root)
    assert [suite.name for suite in context.suites.all()] == ["line"]
    severities = {one.meta["rule"]: one.severity for one in context.suites.get("line").expectations}
    assert (severities["size"], severities["near_duplicates"]) == ("critical", "warning")
    table = pd.read_parquet(root / "images.parquet")
    again = context.checkpoints.get("line").run(batch_parameters={"dataframe": table})
    assert not again.success
    assert context.checkpoints.get("line").run(batch_parameters={"dataframe": table[:20]}).success


def test_every_finding_is_also_the_packages(check: Check, tmp_path: Path) -> None:
    """Great Expectations decides, and the images that are named are those that it counted."""
    rows, _, _, _ = CASES["duplicate across"]
    report = check([*rows, row(60, width=8), row(61, contrast=0.0), row(62, problem="damaged", sha256="", mode="")])
    stored = json.loads((tmp_path / "out" / "gx" / "checkpoint_result.json").read_text())
    (result,) = stored["validation_results"]
    counted = sum(one["result"].get("unexpected_count", 0) for one in result["expectations"])
    assert counted == sum(len(rule.findings) for rule in report.rules) == 5


def test_docs_are_self_contained_and_name_the_files(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "train" / "good" / "050.png"
    file.parent.mkdir(parents=True)
    Image.effect_noise((400, 300), 60).convert("RGB").save(file)
    check([*GOOD, row(50, width=8), row(51, problem="the file is empty", sha256="", mode="")])
    docs = tmp_path / "out" / "data_docs"
    pages = {page: page.read_text() for page in docs.rglob("*.html")}
    assert len(pages) == 3
    for page, text in pages.items():
        assert not re.search(r"<(script|link|iframe)\b|https?://", text, re.IGNORECASE)
        assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'<img src="([^"]*)', text))
        for target in re.findall(r'href="([^"#]+)', text):
            assert (page.parent / target).is_file(), target
    front = pages[docs / "index.html"]
    assert front.count("<img ") == 1
    assert front.count("no picture: cannot be read") == 1
    assert "train/good/050.png" in front
    assert "the file is empty" in front
    assert {path.suffix for path in docs.rglob("*") if path.is_file()} == {".html"}


def test_pictures_are_few_and_the_other_images_are_named(check: Check, tmp_path: Path) -> None:
    rows = [row(100 + index, width=8) for index in range(300)]
    check([*GOOD, *rows])
    front = (tmp_path / "out" / "data_docs" / "index.html").read_text()
    assert front.count("no picture") == 24
    assert "train/good/323.png" in front
    assert "train/good/324.png" not in front
    assert "and 76 more, all in validation.json" in front


def test_a_pair_is_shown_once_with_both_pictures(check: Check, tmp_path: Path) -> None:
    for name in ("train/good/002.png", "test/good/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.effect_noise((64, 64), 60).save(tmp_path / name)
    check([*GOOD, row(50, path="test/good/0.png", split="test", sha256=GOOD[2].sha256)])
    front = (tmp_path / "out" / "data_docs" / "index.html").read_text()
    assert front.count("<img ") == 2


def test_file_names_are_text_and_not_markup(check: Check, tmp_path: Path) -> None:
    name = "train/good/<img src=x onerror=alert(1)>&.png"
    (failure,) = check([*GOOD, row(50, path=name, width=8)]).failures()
    assert failure.findings[0].path == name
    text = "".join(page.read_text() for page in (tmp_path / "out" / "data_docs").rglob("*.html"))
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;.png" in text


def test_many_images_with_the_same_bytes_are_compared_in_linear_time(check: Check) -> None:
    same = [row(index, sha256="f" * 64, thumbnail=b"") for index in range(20_000)]
    report = check([*same, row(30_000, path="test/good/0.png", split="test", sha256="f" * 64)])
    (rule,) = report.failures()
    assert len(rule.findings) == 20_001
