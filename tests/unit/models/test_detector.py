"""What ships: budget, ranges, score definition, decision rule, files."""

from __future__ import annotations

import errno
import os
import stat

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stlm_core.errors import UserError
from stlm_core.models.detector import (
    Detector,
    DetectorFacts,
    ShippedDetector,
    count_parameters,
    load_detector,
    load_streams,
    save_detector,
    save_streams,
)

FACTS = DetectorFacts(
    size=64, stem="conv3x3", normalisation="unit", teacher="lite_medsam", teacher_sha256="ab", rotation="quarter"
)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(FACTS, top_pixels=50).eval()


def test_parameters_are_within_the_papers_budget(detector):
    assert count_parameters(detector) / 1e6 == pytest.approx(16.56, abs=0.3)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1, 1), (37, 211), (300, 200)])
def test_any_image_size_gives_a_map_of_that_size_in_the_unit_range(detector, height, width):
    image = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    with torch.no_grad():
        score, anomaly_map = detector(image)
    assert score.shape == (2,)
    assert anomaly_map.shape == (2, height, width)
    assert 0 <= float(anomaly_map.min()) <= float(anomaly_map.max()) <= 1
    assert bool(((score >= 0) & (score <= 1)).all())


def test_image_score_is_the_mean_of_the_largest_pixels_at_network_size(detector):
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        score, anomaly_map = detector(image)
    largest = np.sort(anomaly_map.numpy().ravel())[-50:]
    assert float(score) == pytest.approx(float(largest.mean()), rel=1e-5)


def test_score_does_not_depend_on_the_resolution_of_a_smooth_image(detector):
    small = F.interpolate(torch.rand(1, 3, 4, 4), (64, 64), mode="bicubic").clamp(0, 1) * 255
    large = F.interpolate(small, (256, 256), mode="bilinear")
    with torch.no_grad():
        scores = [detector(x.permute(0, 2, 3, 1).byte())[0].item() for x in (small, large)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_streams_alone_agree_everywhere_when_they_are_equal(detector):
    plain = Detector(FACTS, map_source="tlm").eval()
    plain.streams.denoising.load_state_dict(plain.streams.plain.state_dict())
    with torch.no_grad():
        _, anomaly_map = plain(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8))
    assert float(anomaly_map.max()) < 1e-6


@settings(max_examples=30, deadline=None)
@given(
    threshold=st.floats(0.001, 0.999), scale=st.floats(0.1, 20), raws=st.lists(st.floats(0, 1, width=32), min_size=1)
)
def test_decision_is_raw_score_over_raw_threshold_and_score_keeps_the_order(threshold, scale, raws):
    class Fixed(torch.nn.Module):
        def forward(self, image):
            return torch.tensor(raws, dtype=torch.float32), torch.zeros(len(raws), 1, 1)

    score, _, decision = ShippedDetector(Fixed(), threshold, scale)(torch.zeros(1))
    assert np.array_equal(decision.numpy(), np.array(raws, np.float32) > np.float32(threshold))
    assert np.array_equal(decision.numpy(), score.numpy() > 0.5)
    order = np.argsort(raws, kind="stable")
    assert (np.diff(score.numpy()[order]) >= -1e-6).all()


def test_a_saved_detector_gives_the_same_numbers(detector, tmp_path):
    path = tmp_path / "detector.safetensors"
    save_detector(path, detector)
    loaded = load_detector(path, top_pixels=50)
    image = torch.randint(0, 256, (1, 80, 80, 3), dtype=torch.uint8)
    assert loaded.facts == FACTS
    assert loaded.facts.rotation == "quarter"
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(detector(image), loaded(image), strict=True))


@pytest.mark.parametrize("save", [save_detector, save_streams])
def test_weights_can_be_read_by_other_users(detector, tmp_path, save):
    path = tmp_path / "weights.safetensors"
    save(path, detector)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("save", [save_detector, save_streams])
def test_weights_on_a_full_disk_are_one_clear_sentence_and_the_old_ones_stay(detector, tmp_path, monkeypatch, save):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"weights\.safetensors: cannot be written: No space left on device"):
        save(path, detector)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"old")]


def test_weights_into_a_folder_that_cannot_be_made_are_one_clear_sentence(detector, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"weights\.safetensors: cannot be written: "):
        save_detector(tmp_path / "file" / "weights.safetensors", detector)


def test_streams_of_another_teacher_are_refused(detector, tmp_path):
    save_streams(tmp_path / "streams.safetensors", detector)
    other = Detector(DetectorFacts(64, "conv3x3", "unit", "lite_medsam", "cd"))
    with pytest.raises(UserError, match=r"streams.safetensors: made for .* distill again"):
        load_streams(tmp_path / "streams.safetensors", other)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 100])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "detector.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"detector\.safetensors: not a file of this project's weights"):
        load_detector(path)


def test_a_truncated_file_is_named(detector, tmp_path):
    path = tmp_path / "detector.safetensors"
    save_detector(path, detector)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"detector\.safetensors"):
        load_detector(path)
