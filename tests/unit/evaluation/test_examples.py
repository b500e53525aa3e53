"""Choice of examples: worst misses first, bounded, whatever the order of arrival."""

from __future__ import annotations

import numpy as np
import pytest

from stlm_core.evaluation.examples import THUMBNAIL_SIDE, Example, ExampleCollector, outcome_of
from stlm_core.evaluation.predictions import Prediction


def prediction(number: int, defect_type: str, raw_score: float, shape: tuple[int, int] = (20, 30)) -> Prediction:
    mask = np.zeros(shape, dtype=bool)
    mask[7, 9] = True
    return Prediction(
        f"{defect_type}/{number:03d}.png",
        int(defect_type != "good"),
        defect_type,
        raw_score,
        np.full(shape, 0.25, np.float32),
        mask if defect_type != "good" else None,
        np.full((*shape, 3), 80, np.uint8),
    )


def collect(limit: int, predictions: list[Prediction], threshold: float = 0.5) -> list[Example]:
    collector = ExampleCollector(limit)
    for one in predictions:
        collector.offer(one, one.raw_score, outcome_of(one.label, one.raw_score > threshold))
    return collector.selected()


def many(count: int, defect_type: str, low: float, high: float) -> list[Prediction]:
    return [prediction(n, defect_type, low + (high - low) * n / count) for n in range(count)]


def test_worst_misses_then_worst_false_rejects_then_a_sample() -> None:
    predictions = [
        *many(30, "scratch", 0.05, 0.45),
        *many(30, "good", 0.55, 0.95),
        *many(30, "dent", 0.6, 1.0),
        *many(30, "stain", 0.6, 1.0),
        *[prediction(100 + n, "good", 0.1) for n in range(30)],
    ]
    chosen = collect(24, predictions[::-1])
    assert len(chosen) == 24
    outcomes = [example.outcome for example in chosen]
    assert outcomes == ["missed"] * 12 + ["false_reject"] * 6 + outcomes[18:]
    assert [e.raw_score for e in chosen[:12]] == sorted(p.raw_score for p in predictions if p.defect_type == "scratch")[
        :12
    ]
    false = sorted((p.raw_score for p in many(30, "good", 0.55, 0.95)), reverse=True)
    assert [e.raw_score for e in chosen[12:18]] == false[:6]
    assert {e.defect_type for e in chosen[18:] if e.outcome == "found"} == {"dent", "stain"}
    assert "passed" in outcomes


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 8, 24, 100])
@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0), (50, 0, 0, 0), (0, 50, 0, 0), (0, 0, 50, 0), (0, 0, 0, 50), (3, 2, 9, 4), (40, 40, 40, 40)]
)
def test_places_are_filled_but_never_exceeded(limit: int, counts: tuple[int, int, int, int]) -> None:
    missed, false, found, passed = counts
    predictions = [
        *many(missed, "scratch", 0.0, 0.4),
        *[prediction(500 + n, "good", 0.9) for n in range(false)],
        *many(found, "dent", 0.6, 0.9),
        *many(passed, "good", 0.0, 0.4),
    ]
    chosen = collect(limit, predictions)
    assert len(chosen) <= limit
    available = missed + false + min(found, 24) + min(passed, 24)
    assert len(chosen) == min(limit, available)
    if missed and limit:
        assert chosen[0].outcome == "missed"


def test_order_of_arrival_does_not_matter_even_with_equal_scores() -> None:
    predictions = [*[prediction(n, "scratch", 0.3) for n in range(40)], *many(20, "dent", 0.6, 0.9)]
    forwards, backwards = collect(10, predictions), collect(10, predictions[::-1])
    assert [e.path for e in forwards] == [e.path for e in backwards]
    assert forwards[0].path == "scratch/000.png"


@pytest.mark.parametrize("shape", [(20, 30), (900, 500), (1000, 11)])
def test_thumbnails_are_small_and_keep_a_single_marked_pixel(shape: tuple[int, int]) -> None:
    (example,) = collect(3, [prediction(0, "scratch", 0.1, shape)])
    assert max(example.image.shape[:2]) == min(max(shape), THUMBNAIL_SIDE)
    assert example.image.dtype == np.uint8
    assert example.image.shape[:2] == example.anomaly_map.shape
    assert example.mask is not None
    assert example.mask.shape == example.anomaly_map.shape
    assert example.mask.any()
    np.testing.assert_allclose(example.anomaly_map, 0.25, atol=1e-6)
