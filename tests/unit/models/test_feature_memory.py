"""The memory: exact nearest neighbours, a spread-out choice, and a scale on which 1 is one deviation of good parts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.models.detector import Detector, DetectorFacts, load_detector, save_detector
from stlm_core.models.efficientnet import PYRAMID
from stlm_core.models.feature_memory import CHANNELS, FeatureMemory, blurred
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.bank import Bank
from stlm_core.synthesis.build import build_bank
from stlm_core.synthesis.packed_textures import TEXTURES, pack_textures
from stlm_core.synthesis.plan import SourceImage
from stlm_core.synthesis.textures import ProceduralTextures
from stlm_core.training.farthest import farthest
from stlm_core.training.fresh import FreshViews
from stlm_core.training.remember import complete_memory, fit_memory, require_spare_rows

FACTS = DetectorFacts(64, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=False, memory=50)
OF_TRAINING = 34  # of 50 vectors, 4 of 6 good images being for training
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Bank:
    root, folder = tmp_path_factory.mktemp("line"), tmp_path_factory.mktemp("bank")
    rng = np.random.default_rng(0)
    sources = []
    for number in range(6):
        image = rng.integers(180, 220, (64, 64, 3)).astype(np.uint8)
        cv2.circle(image, (32, 32), 18, (90, 60, 40), -1)
        Image.fromarray(image).save(root / f"{number}.png")
        split = "validation" if number < 2 else "train"
        sources.append(SourceImage(f"{number}.png", sha256_file(root / f"{number}.png"), split))
    settings = SynthesizeConfig(variants=2)
    return build_bank(folder, root, sources, ProceduralTextures(64), settings, size=64, max_pixels=10**6)


def fitted(bank: Bank) -> Detector:
    torch.manual_seed(0)
    detector = Detector(FACTS).eval()
    memory = detector.streams.memory
    for kept, value in zip(
        (memory.vectors, memory.centre, memory.deviation), fit_memory(detector, bank, 0, CPU), strict=True
    ):
        kept.copy_(value)
    return detector


def test_the_distance_is_that_to_the_nearest_vector():
    torch.manual_seed(0)
    memory = FeatureMemory(40)
    memory.vectors.copy_(torch.randn(40, CHANNELS))
    maps = [torch.randn(2, width, 64 // stride, 64 // stride) for width, stride in PYRAMID]
    vectors = memory.embed(maps)
    assert vectors.shape == (2, CHANNELS, 8, 8)
    nearest = cdist(vectors.permute(0, 2, 3, 1).reshape(-1, CHANNELS), memory.vectors).min(1).reshape(2, 8, 8)
    found = memory.distance_map(maps, (8, 8))
    for one, expected in zip(found, nearest, strict=True):
        np.testing.assert_allclose(one, gaussian_filter(expected, 2.0, radius=6, mode="nearest"), rtol=1e-4)
    memory.centre.fill_(3.0)
    memory.deviation.fill_(0.5)
    torch.testing.assert_close(memory(maps, (8, 8)), (found - 3) * 2)


def test_the_blur_is_a_gaussian_of_sum_one():
    image = torch.rand(1, 1, 20, 31)
    expected = gaussian_filter(image[0, 0].numpy(), 1.5, radius=4, mode="nearest")
    np.testing.assert_allclose(blurred(image, 1.5, 4)[0, 0], expected, atol=1e-6)


def test_each_vector_is_the_farthest_from_those_before():
    torch.manual_seed(1)
    pool = torch.randn(60, CHANNELS)
    chosen = farthest(pool, 12)
    assert torch.equal(chosen[0], pool[0])
    for count in range(1, 12):
        distances = cdist(pool, chosen[:count]).min(1)
        assert distances.max() == pytest.approx(cdist(chosen[count : count + 1], chosen[:count]).min(), rel=1e-4)


def test_among_many_points_the_choice_is_the_plain_rules():
    torch.manual_seed(2)
    pool = torch.randn(3000, CHANNELS) * torch.rand(3000, 1)  # some far out, most of them alike
    expected, nearest = [0], np.full(len(pool), np.inf)
    for _ in range(299):
        nearest = np.minimum(nearest, cdist(pool, pool[expected[-1:]])[:, 0])
        expected.append(int(nearest.argmax()))
    assert torch.equal(farthest(pool, 300), pool[expected])


@pytest.mark.parametrize(("count", "channels"), [(300, 3), (4000, 16)])
def test_the_choice_is_that_of_the_plain_greedy_rule_from_any_start(count, channels):
    points = torch.randn(count, channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = torch.randint(count, (1,), generator=torch.Generator().manual_seed(2))
    chosen = farthest(points, count // 10, points[start])
    plain = start.tolist()
    nearest = torch.full((count,), torch.inf, dtype=torch.float64)
    while len(plain) < count // 10:
        nearest = torch.minimum(nearest, (points - points[plain[-1]]).square().sum(1))
        plain.append(int(nearest.argmax()))
    assert torch.equal(chosen, points[plain])


def test_what_is_kept_already_counts_as_chosen():
    torch.manual_seed(1)
    pool = torch.randn(60, CHANNELS)
    assert torch.equal(farthest(pool, 12, farthest(pool, 5)), farthest(pool, 12))
    strange = torch.randn(3, CHANNELS) * 9
    chosen = farthest(pool, 5, strange)
    assert torch.equal(chosen[:3], strange)
    assert float(cdist(chosen[3:4], strange).min()) == pytest.approx(float(cdist(pool, strange).min(1).max()), rel=1e-4)


def test_parts_seen_in_other_light_are_remembered(tmp_path, bank):
    """Two thirds of what training images fill stay what they are without fresh views; darker parts are nearer."""
    settings = SynthesizeConfig(fresh=True, light=0.3)
    pack_textures(tmp_path / TEXTURES, ProceduralTextures(64), 64)
    torch.manual_seed(0)
    plain, seen = Detector(FACTS).eval(), Detector(FACTS).eval()
    seen.load_state_dict(plain.state_dict())
    alone = fit_memory(plain, bank, 0, CPU)
    both = fit_memory(seen, bank, 0, CPU, FreshViews(tmp_path, settings))
    share = -(-OF_TRAINING * 2 // 3)
    assert torch.equal(alone[0][:share], both[0][:share])
    for detector, (vectors, *_) in ((plain, alone), (seen, both)):
        detector.streams.memory.vectors.copy_(vectors)
    darker = torch.from_numpy((bank.views([0]) * 0.72).astype(np.uint8))
    with torch.no_grad():
        far, near = (
            one.streams.memory.distance_map(
                one.streams.remembered(one.streams(one.preprocess(darker))), (32, 32)
            ).mean()
            for one in (plain, seen)
        )
    assert float(near) < 0.9 * float(far)


def test_good_parts_that_are_not_remembered_have_mean_0_and_deviation_1(bank):
    detector = fitted(bank)
    views = bank.index.loc[(bank.index["split"] == "validation") & (bank.index["variant"] == 0), "view"].tolist()
    with torch.no_grad():
        features = detector.streams(detector.preprocess(torch.from_numpy(bank.exact(views))))
        standard = detector.streams.memory(detector.streams.remembered(features), (32, 32))
    assert float(standard.mean()) == pytest.approx(0, abs=1e-3)
    assert float(standard.std()) == pytest.approx(1, abs=1e-2)


def features_of(detector: Detector, bank: Bank, split: str) -> torch.Tensor:
    """All features (n, C) of the split's good images."""
    images = torch.from_numpy(bank.exact(bank.as_they_are(split)))
    with torch.no_grad():
        maps = detector.streams.remembered(detector.streams(detector.preprocess(images)))
    return detector.streams.memory.embed(maps).flatten(2).transpose(1, 2).flatten(0, 1)


def are_among(vectors: torch.Tensor, features: torch.Tensor) -> list[bool]:
    """Which of ``vectors`` are one of ``features`` but for rounding."""
    return (cdist(vectors, features).min(1) < 1e-4 * float(features.norm(dim=1).mean())).tolist()


def test_the_validation_images_are_remembered_last(bank):
    detector = fitted(bank)
    memory = detector.streams.memory
    before = memory.vectors.clone()
    training, validation = features_of(detector, bank, "train"), features_of(detector, bank, "validation")
    assert all(are_among(before, training))
    assert torch.equal(before[OF_TRAINING:], before[:1].expand(FACTS.memory - OF_TRAINING, -1))
    after = complete_memory(detector, bank, 0, CPU)
    assert torch.equal(after[:OF_TRAINING], before[:OF_TRAINING])
    added = after[OF_TRAINING:]
    assert all(are_among(added, validation))
    assert not any(are_among(added, training))
    assert len(torch.unique(added, dim=0)) == len(added)
    assert torch.equal(memory.vectors, before)  # the caller decides when
    # The first of them is what the training images show least.
    assert float(cdist(added[:1], before).min()) == pytest.approx(cdist(validation, before).min(1).max(), rel=1e-4)


def test_a_completed_memory_has_seen_other_cameras_of_the_validation_images_too(tmp_path, bank):
    pack_textures(tmp_path / TEXTURES, ProceduralTextures(64), 64)
    detector = fitted(bank)
    plain = complete_memory(detector, bank, 0, CPU)
    seen = complete_memory(detector, bank, 0, CPU, FreshViews(tmp_path, SynthesizeConfig(fresh=True, light=0.3)))
    as_they_are = OF_TRAINING + -(-(FACTS.memory - OF_TRAINING) * 2 // 3)
    assert torch.equal(plain[:as_they_are], seen[:as_they_are])
    validation = features_of(detector, bank, "validation")
    assert not any(are_among(seen[as_they_are:], validation))
    assert all(are_among(plain[OF_TRAINING:], validation))


def test_a_memory_whose_rows_are_taken_is_refused(bank):
    detector = fitted(bank)
    require_spare_rows(detector, bank)
    detector.streams.memory.vectors[-1] += 1  # as a memory of an earlier version or of another bank has it
    with pytest.raises(UserError, match=r"`stlm distill --force` again"):
        require_spare_rows(detector, bank)


def test_a_memory_too_small_for_the_validation_images_is_left_as_it_is(bank):
    detector = Detector(DetectorFacts(**{**FACTS.__dict__, "memory": 2})).eval()
    fit_memory(detector, bank, 0, CPU)
    require_spare_rows(detector, bank)
    assert torch.equal(complete_memory(detector, bank, 0, CPU), detector.streams.memory.vectors)


@torch.no_grad()
def test_the_maps_that_are_remembered_are_those_that_are_compared(bank):
    detector, images = fitted(bank), torch.from_numpy(bank.exact(bank.as_they_are("train")))
    _, distance = detector.opinions(detector.preprocess(images))
    assert torch.equal(detector.memory(detector.remembered_maps(images), distance.shape[-2:]), distance)


def test_fitting_repeats_itself(bank):
    one, other = fitted(bank), fitted(bank)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_more_vectors_than_features_are_an_error(bank):
    detector = Detector(DetectorFacts(**{**FACTS.__dict__, "memory": 19_000}))
    with pytest.raises(UserError, match=r"model\.memory"):
        fit_memory(detector, bank, 0, CPU)


@pytest.mark.parametrize("source", ["fa", "fa-alone", "tlm"])
def test_a_strange_image_raises_the_map_and_the_file_keeps_the_memory(bank, source, tmp_path):
    detector = fitted(bank)
    path = tmp_path / "detector.safetensors"
    save_detector(path, detector)
    loaded = load_detector(path, top_pixels=50, map_source=source)
    good = torch.from_numpy(bank.views([0]))
    strange = good.clone()
    strange[:, 20:44, 20:44] = torch.randint(0, 256, (1, 24, 24, 3), dtype=torch.uint8)
    with torch.no_grad():
        difference = loaded(strange)[0] - loaded(good)[0]
    if source != "fa-alone":  # an untrained decoder has no opinion
        assert float(difference) > 0.05
