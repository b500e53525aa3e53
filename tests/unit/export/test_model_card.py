"""The card's sentences for lines with and without defects, and what is told about licences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_onnx import tiny_onnx

from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.export.facts import ExportFacts, digest_of_test_split, is_non_commercial
from stlm_core.export.latency import LatencyReport
from stlm_core.export.model_card import model_card
from stlm_core.export.parity import ParityCase, ParityReport
from stlm_core.models.detector import DetectorFacts
from stlm_core.runtime.model import REQUIRED_METADATA, DetectorSession
from stlm_core.weights.catalog import lookup

FACTS = ExportFacts(
    line="part",
    profile="cpu",
    detector=DetectorFacts(256, "conv3x3", "unit", "lite_medsam", lookup("lite_medsam").sha256),
    detector_sha256="d" * 64,
    top_pixels=100,
    map_source="fa",
    operating_point=OperatingPoint(0.3, 0.05, 10, 1 / 11, 0.4, 1.5),
    metrics={
        "image_auroc": 0.9512,
        "recall_at_budget": 0.75,
        "recall_at_budget_low": 0.6,
        "recall_at_budget_high": 0.9,
    },
    dataset_sha256="a" * 64,
    test_sha256="b" * 64,
    images={"train": 60, "validation": 8, "calibration": 16, "test": 40},
    data_license="CC0-1.0",
    code_version="0.1.0+abc",
    git_revision="c" * 40 + "-dirty",
)
CASE = ParityCase(5, 256, 300, 5, 1.5e-7, 2.5e-7, 1, 1)
PARITY = ParityReport(
    True, 1e-4, 1e-3, 1.5e-7, 2.5e-7, 1, 1, "e" * 64, (CASE,), ({"path": "x"},), {"torch": "2"}, ("CPU",)
)
LATENCY = LatencyReport(90.123, 99.9, 91.0, 88.0, 30, 3, 512, 400, 0, 2, "a CPU", ("CPU",), "1.32", 69.0)


def test_figures_intervals_and_revision() -> None:
    card = model_card(FACTS, PARITY, LATENCY)
    assert "| image AUROC | 95.12% |  |" in card
    assert "| recall at the false-reject budget | 75.00% | 60.0% to 90.0% |" in card
    assert "at most 91 of 1000" in card
    assert "Of defective test parts it finds 750 of 1000." in card
    assert "too few images to certify the budget" in card
    assert "| 5 | 300 x 256 | 5 | 1.5e-07 | 2.5e-07 | 1 (1 within tolerance of the threshold) |" in card
    assert "| one image, median | 90.1 ms |" in card
    assert f"git checkout {'c' * 40}\n" in card
    assert "had local changes" in card
    assert "not for commercial use" not in card


def test_no_defects_means_saying_so() -> None:
    card = model_card(replace(FACTS, metrics={"threshold": 0.3}, git_revision=""), PARITY, LATENCY)
    assert "nothing could be measured" in card
    assert "git checkout" not in card


def test_an_unknown_licence_and_foreign_weights_are_pointed_out() -> None:
    foreign = replace(FACTS.detector, teacher_sha256="0" * 64)
    card = model_card(replace(FACTS, data_license="unknown", detector=foreign), PARITY, LATENCY)
    assert "The licence of the line's images is not recorded." in card
    assert "not known: the weights are not those of the catalogue" in card


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CC BY-NC-SA 4.0", True),
        ("cc-by-nc-4.0", True),
        ("Non-Commercial use", True),
        ("noncommercial", True),
        ("research use", True),
        ("CC0-1.0", False),
        ("Apache-2.0", False),
        ("CC BY-SA 4.0", False),
        ("proprietary, Franc Inc.", False),
        ("unknown", False),
    ],
)
def test_non_commercial_licences_are_told_by_name(name: str, expected: bool) -> None:
    assert is_non_commercial(name) is expected


def test_the_metadata_is_what_a_session_accepts() -> None:
    metadata = FACTS.metadata()
    assert set(REQUIRED_METADATA) <= metadata.keys()
    session = DetectorSession(tiny_onnx(**metadata))
    assert (session.line, session.threshold, session.raw_threshold) == ("part", 0.5, 0.3)


def _row(name: str, split: str, sha256: str) -> ManifestRow:
    return ManifestRow(name, split, 0, "good", "", "", sha256, 1, 2, 3, "RGB")


def test_the_digest_of_the_test_split_ignores_everything_else(tmp_path: Path) -> None:
    test = _row("test/a.png", "test", "1" * 64)
    one = Manifest(tmp_path, (test, _row("train/a.png", "train", "2" * 64)))
    other = Manifest(tmp_path / "elsewhere", (test, _row("train/b.png", "train", "3" * 64)))
    changed = Manifest(tmp_path, (replace(test, sha256="4" * 64),))
    assert digest_of_test_split(one) == digest_of_test_split(other) != digest_of_test_split(changed)
    assert digest_of_test_split(Manifest(tmp_path, other.rows[1:])) == ""
