"""The teacher as the plain stream: what is compared, what is trained, what ships."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from stlm_core.models.detector import Detector, DetectorFacts, count_parameters, load_detector, save_detector
from stlm_core.models.efficientnet import PYRAMID, EfficientNetLite0
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.preprocessing import Preprocess
from stlm_core.models.teacher_stream import TeacherStreams, log_discrepancy, pack_pyramid, unpack_pyramid
from stlm_core.models.tiny_vit import TinyViT
from stlm_core.models.two_stream import StreamFeatures, TwoStreamModel
from stlm_core.training.losses import distillation_loss
from stlm_core.training.optimisation import trained_parameters

FACTS = DetectorFacts(64, "conv3x3", "unit", "efficientnet_lite0", "ab", plain_stream="teacher")


def pyramid(count: int = 2, size: int = 64) -> list[torch.Tensor]:
    return [torch.randn(count, width, size // stride, size // stride) for width, stride in PYRAMID]


@pytest.fixture(scope="module")
def streams() -> TeacherStreams:
    torch.manual_seed(0)
    return TeacherStreams("unit").eval()


def test_both_streams_yield_unit_vectors_of_the_teachers_shapes(streams):
    with torch.no_grad():
        features = streams(torch.rand(2, 3, 64, 64))
    for stream in (features.plain, features.denoising):
        assert [tuple(one.shape) for one in stream] == [(2, 24, 16, 16), (2, 40, 8, 8), (2, 112, 4, 4)]
        for one in stream:
            torch.testing.assert_close(one.norm(dim=1), torch.ones(one.shape[0], *one.shape[2:]))


def test_the_plain_stream_sees_what_the_teacher_is_shown(streams):
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = streams.plain(Preprocess(64, "efficientnet_lite")(image))
        found = streams(Preprocess(64, "unit")(image)).plain
    for one, other in zip(found, streams.standardise(expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_a_packed_pyramid_unpacks_to_itself():
    maps = pyramid()
    packed = pack_pyramid(maps)
    assert packed.shape == (2, 24 * 16 + 40 * 4 + 112, 4, 4)
    assert all(torch.equal(one, other) for one, other in zip(unpack_pyramid(packed), maps, strict=True))


def test_statistics_of_packed_features_are_those_of_the_channels():
    streams = TeacherStreams("unit")
    maps = [3 * one + 5 for one in pyramid(4)]
    packed = pack_pyramid(maps)
    streams.set_statistics(packed.mean((0, 2, 3))[None], (packed**2).mean((0, 2, 3))[None])
    for number, one in enumerate(maps):
        torch.testing.assert_close(streams.get_buffer(f"mean_{number}"), one.mean((0, 2, 3)))
        deviation = one.std((0, 2, 3), correction=0)
        torch.testing.assert_close(streams.get_buffer(f"deviation_{number}"), deviation, atol=1e-4, rtol=1e-4)
    for one in streams.targets(packed[:, None], packed[:, None]).denoising:
        torch.testing.assert_close(one.norm(dim=1), torch.ones(4, *one.shape[2:]))


def test_training_moves_the_student_and_nothing_of_the_teacher():
    torch.manual_seed(0)
    streams = TeacherStreams("unit").train()
    before = {key: value.clone() for key, value in streams.plain.state_dict().items()}
    streams.requires_grad_(False)
    assert trained_parameters(streams) == []
    streams.requires_grad_(True)
    trained = trained_parameters(streams)
    assert sum(one.numel() for one in trained) == count_parameters(streams.denoising)
    x, target = torch.rand(2, 3, 64, 64), pack_pyramid(pyramid())[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        streams(x)
        loss = distillation_loss(streams.students(x), streams.targets(target, target))
    loss.backward()
    assert 0 < loss.item() <= 2 * len(PYRAMID)
    assert all(one.grad is not None for one in trained)
    torch.optim.SGD(trained, lr=0.1).step()
    assert all(torch.equal(value, before[key]) for key, value in streams.plain.state_dict().items())


def test_the_teacher_is_computed_in_full_precision_while_training():
    torch.manual_seed(0)
    streams = TeacherStreams("unit").eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = streams(x).plain
        with torch.autocast("cpu", torch.bfloat16):
            found = streams(x).plain
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_student_starts_from_a_sam_encoder_with_another_stem():
    torch.manual_seed(0)
    encoder = TinyViT("conv1x1")
    reference = TwoStreamModel("conv3x3")
    reference.start_from(encoder, PromptFreeDecoder())
    streams, teacher = TeacherStreams("unit"), EfficientNetLite0()
    streams.start_from(teacher, encoder)
    for key, value in reference.denoising.state_dict().items():
        assert torch.equal(streams.denoising.encoder.state_dict()[key], value), key
    assert torch.equal(streams.plain.stem.conv.weight, teacher.stem.conv.weight)


def test_discrepancy_is_the_blurred_mean_of_logs():
    """Against scipy's Gaussian on maps of one size each, so that no interpolation is involved."""
    rng = np.random.default_rng(0)
    distance = rng.uniform(0.1, 1.5, (1, 16, 16))
    angle = torch.from_numpy(np.arccos(1 - distance)).float()
    plain = torch.stack([torch.ones_like(angle), torch.zeros_like(angle)], 1)
    denoising = torch.stack([angle.cos(), angle.sin()], 1)
    found = log_discrepancy(StreamFeatures([plain], [denoising]))
    expected = gaussian_filter(np.log(distance[0] / 2 + 1e-3), 1.0, radius=3, mode="nearest")
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-4)


def test_agreement_gives_a_smaller_anomaly_map_than_opposition(streams):
    one = [F.normalize(feature, dim=1) for feature in pyramid(1)]
    agreeing, opposed = StreamFeatures(one, one), StreamFeatures(one, [-feature for feature in one])
    assert float(streams.anomaly_map(agreeing).max()) < 0.01
    torch.testing.assert_close(streams.anomaly_map(opposed), torch.ones(1, 16, 16), atol=2e-3, rtol=0)


@pytest.mark.parametrize("source", ["fa", "tlm"])
def test_the_detector_is_lighter_than_the_papers_and_survives_its_file(source, tmp_path):
    torch.manual_seed(0)
    detector = Detector(FACTS, top_pixels=50, map_source=source).eval()
    assert count_parameters(detector) < 8.5e6
    path = tmp_path / "detector.safetensors"
    save_detector(path, detector)
    loaded = load_detector(path, top_pixels=50, map_source=source)
    assert loaded.facts == FACTS
    image = torch.randint(0, 256, (2, 80, 50, 3), dtype=torch.uint8)
    with torch.no_grad():
        score, anomaly_map = detector(image)
        assert all(torch.equal(a, b) for a, b in zip((score, anomaly_map), loaded(image), strict=True))
    assert anomaly_map.shape == (2, 80, 50)
    assert 0 <= float(anomaly_map.min()) <= float(anomaly_map.max()) <= 1


def test_aggregation_starts_as_the_log_of_the_discrepancy_alone():
    torch.manual_seed(0)
    detector = Detector(FACTS).eval()
    with torch.no_grad():
        features = detector.streams(torch.rand(1, 3, 64, 64))
        torch.testing.assert_close(detector.aggregation(features), 6 + 3 * log_discrepancy(features))


def test_a_hastened_teacher_yields_the_same_maps_and_is_not_saved():
    torch.manual_seed(0)
    streams = TeacherStreams("unit").eval()
    for module in streams.plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    keys = set(streams.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = streams(x)
        streams.hasten()
        found = streams(x)
    assert not all(torch.equal(one, other) for one, other in zip(found.plain, expected.plain, strict=True))
    for one, other in zip(found.context, expected.context, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
    assert set(streams.state_dict()) == keys
