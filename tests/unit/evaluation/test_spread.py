"""Intervals against closed forms and scipy's own bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.evidence_collector import EvidenceCollector
from stlm_core.evaluation.intervals import wilson
from stlm_core.evaluation.operating_point import OperatingPoint, fit_operating_point
from stlm_core.evaluation.predictions import Prediction
from stlm_core.evaluation.spread import image_spread, overlap_spread


def sample(good: int, defects: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [good, defects])
    return labels, rng.normal(size=good + defects) + 1.2 * labels


def test_auroc_interval_is_that_of_scipys_bootstrap() -> None:
    labels, scores = sample(40, 60)

    def auroc(good: np.ndarray, defects: np.ndarray, axis: int = -1) -> np.ndarray:
        return (defects[..., :, None] > good[..., None, :]).mean(axis=(-1, -2))

    wanted = stats.bootstrap(
        (scores[labels == 0], scores[labels == 1]),
        auroc,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
        batch=200,
    ).confidence_interval
    low, high = image_spread(labels, scores, [""] * 100, seed="x")["image_auroc"]
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.012)
    assert low < roc_auc_score(labels, scores) < high


def test_auroc_interval_is_close_to_hanley_and_mcneil() -> None:
    """Radiology 1982: the standard error in closed form, for scores that are nearly normal."""
    labels, scores = sample(300, 300)
    area = roc_auc_score(labels, scores)
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 299 * (one - area**2) + 299 * (two - area**2)) / 300**2)
    low, high = image_spread(labels, scores, [""] * 600, seed="x")["image_auroc"]
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.15)


def test_images_of_one_part_are_drawn_together() -> None:
    labels, scores = sample(30, 30)
    alone = image_spread(labels, scores, [""] * 60, seed="x")["image_auroc"]
    # Every image four times, as four photographs of one part: no more is known than before.
    parts = [f"part{number}" for number in range(60)] * 4
    together = image_spread(np.tile(labels, 4), np.tile(scores, 4), parts, seed="x")["image_auroc"]
    apart = image_spread(np.tile(labels, 4), np.tile(scores, 4), [""] * 240, seed="x")["image_auroc"]
    assert together == pytest.approx(alone, abs=0.02)
    assert apart[1] - apart[0] < 0.65 * (together[1] - together[0])


def test_what_the_images_cannot_tell_is_absent() -> None:
    assert image_spread([0, 1, 1], [0.1, 0.2, 0.3], ["", "", ""], seed="x") == {}  # one good image
    assert image_spread([1, 1], [0.2, 0.3], ["", ""], seed="x") == {}
    assert image_spread([], [], [], seed="x") == {}
    assert image_spread([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], ["a", "a", "", ""], seed="x") == {}  # one good part
    # Always perfectly ranked: every draw says 1, which is no interval.
    assert image_spread([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [""] * 4, seed="x") == {}


def evidence_of(images: int, parts: bool = False) -> Evidence:
    """Good and defective images in turn; every second defect is half covered by the map."""
    rng = np.random.default_rng(5)
    collector = EvidenceCollector()
    for number in range(images):
        label = number % 2
        mask = np.zeros((24, 24), dtype=bool)
        mask[4 : 8 + number % 5, 6:14] = True
        anomaly_map = (rng.random((24, 24)) * 0.4).astype(np.float32)
        if label:
            anomaly_map[4:8, 6 : 14 - 4 * (number % 4 == 1)] += 0.5
        collector.add(
            Prediction(
                path=f"{number}.png",
                label=label,
                defect_type="dent" if label else "good",
                raw_score=0.5,
                anomaly_map=anomaly_map,
                mask=mask if label else None,
                image=np.zeros((24, 24, 3), dtype=np.uint8),
                group=f"part{number // 8}" if parts else "",
            ),
            0.5,
            False,
        )
    return collector.build()


def test_aupro_interval_holds_the_value_and_narrows_with_more_images() -> None:
    few, many = evidence_of(24), evidence_of(192)
    widths = []
    for evidence in (few, many):
        (low, high) = overlap_spread(evidence, seed="x")["aupro_30"]
        assert low < evidence.aupro(np.ones((1, len(evidence))))[0] < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(192 / 24), rel=0.35)
    together = overlap_spread(evidence_of(192, parts=True), seed="x")["aupro_30"]
    assert overlap_spread(many, seed="x") == overlap_spread(many, seed="x")
    assert together != overlap_spread(many, seed="x")["aupro_30"]


def test_aupro_has_no_interval_without_regions() -> None:
    evidence = evidence_of(8)
    assert overlap_spread(evidence.take(np.flatnonzero(evidence.labels == 0)), seed="x") == {}
    assert overlap_spread(evidence.take(np.array([0, 1])), seed="x") == {}  # one image of each


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 99))
def test_intervals_are_ordered_repeatable_and_do_not_depend_on_the_scale(good: int, defects: int, seed: int) -> None:
    labels, scores = sample(good, defects, seed)
    found = image_spread(labels, scores, [""] * len(labels), seed="x", resamples=200)
    assert found == image_spread(labels, scores, [""] * len(labels), seed="x", resamples=200)
    assert found == image_spread(labels, np.exp(scores), [""] * len(labels), seed="x", resamples=200)
    assert all(0 <= low < high <= 1 for low, high in found.values())


@pytest.mark.parametrize(("found", "total"), [(0, 20), (6, 8), (27, 42), (42, 42), (1, 1)])
def test_intervals_of_shares_are_scipys(found: int, total: int) -> None:
    wanted = stats.binomtest(found, total).proportion_ci(method="wilson")
    assert wilson(found, total) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@pytest.mark.parametrize(("images", "budget"), [(1, 0.05), (10, 0.05), (24, 0.05), (200, 0.05), (999, 0.01)])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_bound_on_false_rejects_is_the_quantile_of_a_beta(images: int, budget: float, confidence: float) -> None:
    point = fit_operating_point(np.linspace(0.1, 0.5, images), budget)
    above = round(point.guaranteed_false_reject * (images + 1))
    wanted = stats.beta.ppf(confidence, above, images + 1 - above)
    assert point.false_reject_bound(confidence) == pytest.approx(wanted, abs=1e-9)


def test_with_the_largest_score_as_threshold_the_bound_has_a_closed_form() -> None:
    point = OperatingPoint(0.3, 0.05, 24, 1 / 25, 0.7, 1.0, 24, 0)
    assert point.false_reject_bound(0.95) == pytest.approx(1 - 0.05 ** (1 / 24), abs=1e-12)
