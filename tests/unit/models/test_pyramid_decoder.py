"""The decoder over the plain stream's maps: shapes, what it sees, and the detector around it."""

from __future__ import annotations

import pytest
import torch

from stlm_core.errors import UserError
from stlm_core.models.detector import Detector, DetectorFacts, count_parameters, load_detector, save_detector
from stlm_core.models.pyramid_decoder import PyramidDecoder
from stlm_core.models.teacher_stream import TeacherStreams
from stlm_core.training.losses import distillation_loss
from stlm_core.training.optimisation import trained_parameters


def facts(denoising: bool) -> DetectorFacts:
    return DetectorFacts(64, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=denoising)


@pytest.mark.parametrize(("denoising", "most"), [(True, 8.3e6), (False, 1.7e6)])
def test_logits_lie_on_half_the_input_side_and_the_detector_survives_its_file(denoising, most, tmp_path):
    torch.manual_seed(0)
    detector = Detector(facts(denoising), top_pixels=50).eval()
    assert count_parameters(detector) < most
    with torch.no_grad():
        features = detector.streams(torch.rand(2, 3, 64, 64))
        assert detector.aggregation(features).shape == (2, 32, 32)
    save_detector(tmp_path / "detector.safetensors", detector)
    loaded = load_detector(tmp_path / "detector.safetensors", top_pixels=50)
    assert loaded.facts == detector.facts
    image = torch.randint(0, 256, (2, 80, 50, 3), dtype=torch.uint8)
    with torch.no_grad():
        score, anomaly_map = detector(image)
        assert all(torch.equal(a, b) for a, b in zip((score, anomaly_map), loaded(image), strict=True))
    assert anomaly_map.shape == (2, 80, 50)


def test_it_sees_the_teachers_maps_and_the_agreement_beside_them():
    torch.manual_seed(0)
    streams = TeacherStreams("unit").eval()
    with torch.no_grad():
        features = streams(torch.rand(1, 3, 64, 64))
        seen = PyramidDecoder(denoising=True).inputs(features)
    assert [tuple(one.shape) for one in seen] == [(1, 16, 32, 32), (1, 48, 16, 16), (1, 80, 8, 8), (1, 224, 4, 4)]
    for one, context, p, d in zip(seen[1:], features.context[1:], features.plain, features.denoising, strict=True):
        width = p.shape[1]
        assert torch.equal(one[:, :width], context)
        torch.testing.assert_close(one[:, width:].sum(1) / width, (p * d).sum(1))


def test_without_a_denoising_stream_nothing_of_the_streams_is_trained():
    torch.manual_seed(0)
    streams = TeacherStreams("unit", denoising=False)
    assert trained_parameters(streams.requires_grad_(True)) == []
    features = streams(torch.rand(1, 3, 64, 64))
    assert features.denoising == []
    assert PyramidDecoder(denoising=False).inputs(features) is features.context


def test_the_teacher_teaches_fresh_views_as_it_would_from_the_cache():
    torch.manual_seed(0)
    streams = TeacherStreams("unit").eval()
    clean = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        targets, plain = streams.teach(clean), streams(clean).plain
    for one, other in zip(targets.denoising, plain, strict=True):
        torch.testing.assert_close(one, other)
    loss = distillation_loss(streams.students(clean), targets)
    assert 0 < loss.item() <= 6


def test_the_discrepancy_map_needs_a_denoising_stream():
    detector = Detector(facts(denoising=False), map_source="tlm").eval()
    with pytest.raises(UserError, match="map_source"):
        detector(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
