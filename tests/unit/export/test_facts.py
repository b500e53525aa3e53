"""What an exported file says of itself, and what is told about licences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from model_cards import FACTS
from tiny_onnx import tiny_onnx

from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.export.facts import digest_of_test_split, is_non_commercial
from stlm_core.runtime.model import REQUIRED_METADATA, DetectorSession


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
    assert metadata["rotation"] == "any"
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
