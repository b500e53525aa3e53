"""Images of the threshold: what each adds to the memory, and scores as if it did not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.evaluation.operating_point import fit_operating_point
from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.training.remember_held_back import HeldBackMemory, plan

FACTS = DetectorFacts(64, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=False, memory=40)
CPU = torch.device("cpu")


def detector() -> Detector:
    torch.manual_seed(0)
    made = Detector(FACTS).eval()
    assert made.memory is not None
    made.memory.vectors.copy_(torch.rand_like(made.memory.vectors))
    return made


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)


PARTS = [("a", image(0)), ("a", image(1)), ("b", image(2)), ("c", image(3))]


def score(made: Detector, shown: np.ndarray) -> float:
    with torch.inference_mode():
        return float(made(torch.from_numpy(shown[None]))[0][0])


def test_no_image_has_a_say_in_what_another_adds() -> None:
    alone = [HeldBackMemory(detector(), [pair], 3, CPU).added() for pair in PARTS]
    together = HeldBackMemory(detector(), PARTS, 3, CPU).added()
    assert torch.equal(together, torch.cat(alone))
    assert together.shape == (12, 152)


def test_a_part_is_scored_without_all_its_images_and_the_memory_is_put_back() -> None:
    made = detector()
    assert made.memory is not None
    base = made.memory.vectors.clone()
    memory = HeldBackMemory(made, PARTS, 3, CPU)
    added = memory.added()
    for part, own in {"a": (0, 6), "b": (6, 9), "c": (9, 12), "another": (12, 12)}.items():
        with memory.without(part):
            expected = torch.cat([base, added[: own[0]], added[own[1] :]])
            assert torch.equal(made.memory.vectors, expected)
        assert torch.equal(made.memory.vectors, base)
    with pytest.raises(RuntimeError, match="broken"), memory.without("a"):
        raise RuntimeError("broken")
    assert torch.equal(made.memory.vectors, base)


def test_what_is_remembered_besides_only_lowers_a_score() -> None:
    made = detector()
    memory = HeldBackMemory(made, PARTS, 3, CPU)
    for part, shown in PARTS:
        before = score(made, shown)
        with memory.without(part):
            without_itself = score(made, shown)
        with memory.without("none of them"):
            remembered = score(made, shown)
        assert remembered < without_itself <= before


def test_an_image_adds_no_more_than_it_has() -> None:
    assert len(HeldBackMemory(detector(), PARTS[:1], 1000, CPU).added()) == 64  # cells of stride 8


@given(st.integers(1, 20_000), st.integers(0, 100_000), st.integers(1, 100_000))
def test_what_is_added_is_at_most_a_quarter(size: int, remembered: int, held_back: int) -> None:
    made = plan(size, remembered, held_back)
    assert made.each >= 1
    assert 0 <= made.share <= 1
    assert made.each * made.share * held_back <= size / 4 + 1e-6
    assert made.each <= max(1, size // max(1, remembered))


def test_as_many_an_image_as_the_others_have_where_there_is_room() -> None:
    assert plan(3000, 256, 64).each == 11
    assert plan(3000, 584, 148) == plan(3000, 584, 150)
    assert plan(3000, 256, 64).share == 1


def test_of_very_many_images_a_share_is_chosen_by_its_own_content() -> None:
    made = plan(3000, 70_000, 20_000)
    assert made.each == 1
    assert made.share == pytest.approx(750 / 20_000)
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20_000)]
    assert sum(made.chooses(name) for name in names) == pytest.approx(750, abs=110)  # four deviations


def test_the_budget_holds_in_the_mean_over_draws_of_the_images_of_the_threshold() -> None:
    """Parts are points of a plane, a score is the distance to the nearest that is remembered."""
    rng = np.random.default_rng(0)
    remembered = rng.normal(size=(30, 2))
    guaranteed, rejected, rejected_if_scored_alone = [], [], []

    def scores(points: np.ndarray, known: np.ndarray, itself: bool = False) -> np.ndarray:
        distances = np.linalg.norm(points[:, None] - known, axis=-1)
        if itself:
            np.fill_diagonal(distances[:, -len(points) :], np.inf)
        return 1 - np.exp(-distances.min(axis=1))

    for _ in range(300):
        held_back, to_come = rng.normal(size=(39, 2)), rng.normal(size=(200, 2))
        everything = np.concatenate([remembered, held_back])
        point = fit_operating_point(scores(held_back, everything, itself=True), 0.1)
        guaranteed.append(point.guaranteed_false_reject)
        rejected.append((scores(to_come, everything) > point.raw_threshold).mean())
        alone = fit_operating_point(scores(held_back, remembered), 0.1)
        rejected_if_scored_alone.append((scores(to_come, everything) > alone.raw_threshold).mean())
    error = np.std(rejected) / np.sqrt(len(rejected))
    assert np.mean(guaranteed) - 4 * error <= np.mean(rejected) <= np.mean(guaranteed) + 3 * error
    # What the held-back images' own features, left out for their score, spare the threshold: it is as sharp as it may.
    assert np.mean(rejected_if_scored_alone) < np.mean(rejected) - 4 * error
