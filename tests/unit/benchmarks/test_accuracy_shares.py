"""What other shares of the memory would give: between the decoder alone and the memory alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from line_project import mvtec_dataset

from benchmarks.accuracy.figures import image_figures
from benchmarks.accuracy.lines import Line, load_pair, validated
from benchmarks.accuracy.shares import run_shares
from stlm_core.errors import UserError
from stlm_core.models.detector import Detector, DetectorFacts, MapSource, load_detector, save_detector

OWN = 0.4


def written(folder: Path, memory: int) -> Path:
    """A detector that has learned nothing, with a share of its own."""
    torch.manual_seed(0)
    facts = DetectorFacts(
        32, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=False, memory=memory
    )
    detector = Detector(facts)
    if detector.memory is not None:
        detector.memory.vectors.normal_()
        detector.memory.centre.fill_(12)
        detector.memory.share.fill_(OWN)
    save_detector(folder / "detector.safetensors", detector)
    return folder / "detector.safetensors"


def test_the_ends_are_the_two_halves_alone(tmp_path: Path) -> None:
    line = Line("part", mvtec_dataset(tmp_path / "part"), "mvtec", {"validate": {"min_train_images": 2}})
    model = written(tmp_path, 9)
    told = run_shares(tmp_path, line, model, 5, (0.0, 1.0))
    assert "as trained: 0.40 in the score" in told

    content = json.loads((tmp_path / "shares-part.json").read_text())
    assert content["own_share"] == pytest.approx(OWN)
    assert [row["share"] for row in content["figures"]] == [0, 1]
    assert all("aupro_30" in row for row in content["figures"])
    manifest = validated(tmp_path, line)
    test = manifest.test()
    halves: tuple[tuple[int, MapSource], ...] = ((0, "fa-alone"), (1, "tlm"))
    for place, source in halves:
        detector = load_detector(model, 5, source)
        with torch.no_grad():
            scores = [float(detector(torch.from_numpy(load_pair(manifest, row)[0])[None])[0]) for row in test]
        expected = image_figures([row.label for row in test], scores)
        assert content["figures"][place]["image_auroc"] == pytest.approx(expected["image_auroc"])


def test_a_detector_without_a_memory_is_refused(tmp_path: Path) -> None:
    line = Line("part", tmp_path, "mvtec", {})
    with pytest.raises(UserError, match="has no memory"):
        run_shares(tmp_path, line, written(tmp_path, 0), 5)
