"""The file of what the images of the threshold add to a memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from stlm_core.errors import UserError
from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.models.feature_memory import CHANNELS
from stlm_core.models.remembered import add_remembered, save_remembered

FACTS = DetectorFacts(64, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=False, memory=5)


def test_what_is_added_comes_after_what_was_there(tmp_path: Path) -> None:
    detector, more = Detector(FACTS), torch.rand(3, CHANNELS)
    assert detector.memory is not None
    before = detector.memory.vectors.clone()
    save_remembered(tmp_path / "more", more)
    add_remembered(detector, tmp_path / "more")
    assert torch.equal(detector.memory.vectors, torch.cat([before, more]))
    assert detector.facts.memory == 8


def test_nothing_can_be_added_to_any_detector(tmp_path: Path) -> None:
    detector = Detector(DetectorFacts(64, "conv3x3", "unit"))
    save_remembered(tmp_path / "none", torch.zeros(0, CHANNELS))
    add_remembered(detector, tmp_path / "none")
    assert detector.memory is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not what an evaluation remembers"),
        (save({"other": torch.zeros(1, CHANNELS)}), "not what an evaluation remembers"),
        (save({"vectors": torch.zeros(1, 3)}), "vectors of another kind"),
        (save({"vectors": torch.zeros(CHANNELS)}), "vectors of another kind"),
        (save({"vectors": torch.zeros(1, CHANNELS, dtype=torch.int8)}), "vectors of another kind"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=f"file: {message}"):
        add_remembered(Detector(FACTS), tmp_path / "file")


def test_a_missing_file_and_a_detector_without_a_memory_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        add_remembered(Detector(FACTS), tmp_path / "missing")
    save_remembered(tmp_path / "more", torch.zeros(1, CHANNELS))
    with pytest.raises(UserError, match="has no memory"):
        add_remembered(Detector(DetectorFacts(64, "conv3x3", "unit")), tmp_path / "more")
