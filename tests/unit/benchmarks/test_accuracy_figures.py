"""Recall at a false-reject rate, the baselines' coreset, and the table of the accuracy benchmark."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.figures import image_figures, pixel_figures, recall_at_fpr
from benchmarks.accuracy.records import Record
from benchmarks.accuracy.table import overall, spread, summarise, to_markdown, warnings

SCORES = st.lists(st.integers(0, 20), min_size=1, max_size=40)
CELL = Record("bottle", "a", 0, {}, {"selection": 0.5}, {"image_auroc": 0.9}, {"distill": 60.0}, 1024.0, {"code": "1"})


def test_recall_lies_above_the_highest_good_score_when_no_good_image_may_be_rejected() -> None:
    assert recall_at_fpr([0] * 50 + [1] * 4, [*np.linspace(0, 0.5, 50), 0.5, 0.6, 0.7, 0.1]) == 0.5


def test_one_of_a_hundred_good_images_may_be_rejected() -> None:
    good = [*np.linspace(0, 0.5, 99), 0.9]
    assert recall_at_fpr([0] * 100 + [1, 1], [*good, 0.6, 0.4]) == 0.5
    assert recall_at_fpr([0] * 99 + [1, 1], [*good[1:], 0.6, 0.4]) == 0.0


@given(good=SCORES, anomalous=SCORES, limit=st.sampled_from([0.01, 0.1, 0.3, 1.0]))
def test_recall_is_the_best_of_all_thresholds(good: list[int], anomalous: list[int], limit: float) -> None:
    best = 0.0
    for threshold in range(-1, 21):
        if np.mean([score > threshold for score in good]) <= limit + 1e-12:
            best = max(best, float(np.mean([score > threshold for score in anomalous])))
    labels = [0] * len(good) + [1] * len(anomalous)
    assert recall_at_fpr(labels, [*good, *anomalous], limit) == best


def test_what_is_not_defined_is_left_out() -> None:
    assert recall_at_fpr([0, 0], [0.1, 0.2]) is None
    assert image_figures([1], [0.2]) == {}
    assert pixel_figures([(np.zeros((4, 4), np.float32), None)]) == {}


def test_figures_of_a_perfect_detector() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[5:9, 5:9] = True
    found = pixel_figures([(mask.astype(np.float32), mask), (np.zeros((8, 8), np.float32), None)])
    assert found == pytest.approx({"pixel_auroc": 1.0, "pixel_ap": 1.0, "aupro_30": 1.0, "aupro_05": 1.0})
    assert set(image_figures([0, 1], [0.1, 0.9]).values()) == {1.0}


def test_spread_of_one_seed_is_unknown() -> None:
    assert spread([0.5]) == (0.5, None)
    assert spread([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))


def test_the_test_split_chooses_nothing() -> None:
    worse = replace(CELL, configuration="b", pseudo={"selection": 0.4}, test={"image_auroc": 1.0})
    unselected = replace(CELL, configuration="peer", pseudo={}, test={"image_auroc": 1.0})
    rows = summarise([unselected, worse, CELL])
    assert [(row.configuration, row.rank) for row in rows] == [("a", 1), ("b", 2), ("peer", None)]
    assert list(overall(rows)) == ["a", "b"]


def test_a_configuration_that_misses_a_line_is_not_ranked_over_all_lines() -> None:
    rows = summarise([CELL, replace(CELL, line="screw"), replace(CELL, configuration="b", pseudo={"selection": 1.0})])
    assert overall(rows) == {"a": 0.5}


def test_table_over_seeds() -> None:
    other = replace(CELL, seed=1, test={"image_auroc": 0.8}, seconds={"distill": 180.0})
    (row,) = summarise([other, CELL])
    assert row.seeds == (0, 1)
    text = to_markdown([row])
    assert "| bottle | a | 0 1 | 50.00 +- 0.00 | 1 | 85.00 +- 7.07 | 2.0 | 1.0 |" in text
    assert "AUPRO" not in text


def test_unlike_cells_are_warned_of() -> None:
    assert warnings([CELL, replace(CELL, seed=1)]) == []
    told = warnings([CELL, replace(CELL, configuration="b", facts={"code": "2", "pseudo_anomalies": "x"})])
    assert len(told) == 2
    assert "more than one code: 1, 2" in told[0]
    assert "bottle" in told[1]
