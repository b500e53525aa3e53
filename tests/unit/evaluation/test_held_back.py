"""The highest scores of held-back images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from stlm_core.evaluation.detection import Detected
from stlm_core.evaluation.held_back import HeldBack, HighestScores, held_back
from stlm_core.evaluation.operating_point import fit_operating_point


def shown(raw: npt.NDArray[np.float64], budget: float = 0.05, wanted: bool = True) -> HeldBack:
    """As the step does it; image ``n`` is called ``n.png``."""
    highest = HighestScores(wanted)
    for number, score in enumerate(raw):
        image = np.full((300, 400, 3), number % 256, np.uint8)
        found = Detected("", image, float(score), np.full((300, 400), score, np.float32))
        highest.offer(f"{number}.png", found)
    return held_back(highest.sorted(), raw, fit_operating_point(raw, budget))


def test_the_highest_come_first_with_their_place_to_the_threshold() -> None:
    raw = np.linspace(0.1, 0.3, 64)
    found = shown(np.random.default_rng(0).permutation(raw))
    # Of 64 the 62nd is the threshold at a budget of 5 %.
    assert found.at_or_above == 3
    assert [example.outcome for example in found.examples] == ["false_reject", "false_reject", "passed", "passed"]
    assert [example.raw_score for example in found.examples] == sorted(raw)[:-5:-1]
    assert found.examples[1].score > found.examples[2].score == 0.5 > found.examples[3].score
    assert found.examples[0].image.shape == (168, 224, 3)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (3, 3), (12, 4), (300, 8)])
def test_at_least_four_and_at_most_eight_are_shown(count: int, expected: int) -> None:
    assert len(shown(np.linspace(0.1, 0.3, count)).examples) == expected


def test_no_pictures_where_none_are_wanted_and_all_that_are_level_with_the_threshold_count() -> None:
    assert shown(np.array([0.3]), wanted=False) == HeldBack((), 1)
    assert shown(np.full(5, 0.3)).at_or_above == 5
