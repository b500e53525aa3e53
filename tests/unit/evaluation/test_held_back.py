"""Who decides the threshold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from stlm_core.evaluation.detection import Detected
from stlm_core.evaluation.held_back import Deciding, HighestScores, deciding
from stlm_core.evaluation.operating_point import fit_operating_point


def decided(raw: npt.NDArray[np.float64], budget: float = 0.05, wanted: bool = True) -> Deciding:
    """As the step does it; image ``n`` is called ``n.png`` and shows the part ``""``."""
    highest = HighestScores(wanted)
    for number, score in enumerate(raw):
        image = np.full((300, 400, 3), number % 256, np.uint8)
        found = Detected("", image, float(score), np.full((300, 400), score, np.float32))
        highest.offer(f"{number}.png", found)
    parts = [""] * len(raw)
    return deciding(highest.sorted(), raw, parts, fit_operating_point(raw, budget, parts))


def test_the_highest_come_first_with_their_place_to_the_threshold() -> None:
    raw = np.linspace(0.1, 0.3, 64)
    found = decided(np.random.default_rng(0).permutation(raw))
    # Of 64 the 62nd is the threshold at a budget of 5 %.
    assert found.at_or_above == 3
    assert [example.outcome for example in found.examples] == ["false_reject", "false_reject", "passed", "passed"]
    assert [example.raw_score for example in found.examples] == sorted(raw)[:-5:-1]
    assert found.examples[1].score > found.examples[2].score == 0.5 > found.examples[3].score
    assert found.examples[0].image.shape == (168, 224, 3)


def test_without_them_the_threshold_is_that_of_the_others() -> None:
    raw = np.append(np.linspace(0.1, 0.2, 61), [0.8, 0.85, 0.9])
    found = decided(raw)
    own = fit_operating_point(raw, 0.05)
    others = fit_operating_point(raw[:61], 0.05)
    assert own.raw_threshold == pytest.approx(0.8)
    assert found.without == pytest.approx(float(own.calibrate(others.raw_threshold)))
    assert found.without is not None
    assert 0.1 < found.without < 0.2


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (12, 4), (300, 8)])
def test_at_least_four_and_at_most_eight_are_shown(count: int, shown: int) -> None:
    assert len(decided(np.linspace(0.1, 0.3, count)).examples) == shown


def test_no_pictures_where_none_are_wanted_and_no_threshold_of_no_image() -> None:
    one = decided(np.array([0.3]), wanted=False)
    assert one == Deciding((), 1, None)
    equal = decided(np.full(5, 0.3))
    assert (equal.at_or_above, equal.without) == (5, None)
