"""Pixel-level accumulators: bins, agreement with exact and with references, closed forms, bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn import metrics as reference

from stlm_core.evaluation.metrics import (
    aupro,
    average_precision,
    f1_max,
    pixel_accumulator,
    pro_curve,
    ranking_auroc,
)
from stlm_core.evaluation.metrics.binning import BINS, bin_thresholds, score_bins
from stlm_core.evaluation.metrics.counts import ScoreCounts
from stlm_core.evaluation.metrics.regions import region_weights

THRESHOLDS = bin_thresholds()
unit_floats = st.floats(0, 1, width=32)


def brute_force_aupro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """AUPRO by going through every distinct score as a threshold: slow and obvious."""
    regions = []
    for scores, mask in zip(maps, masks, strict=True):
        labels, number = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [scores[labels == region] for region in range(1, number + 1)]
    normal = np.concatenate([scores[~mask] for scores, mask in zip(maps, masks, strict=True)])
    fpr, pro = [0.0], [0.0]
    for threshold in np.unique(np.concatenate([scores.ravel() for scores in maps]))[::-1]:
        fpr.append(float(np.mean(normal >= threshold)))
        pro.append(float(np.mean([np.mean(region >= threshold) for region in regions])))
    area = 0.0
    for x0, x1, y0, y1 in zip(fpr[:-1], fpr[1:], pro[:-1], pro[1:], strict=True):
        if x1 <= x0 or x0 >= limit:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def blobs(rng: np.random.Generator, side: int = 40, blur: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """An anomaly map (side, side) float32 in [0, 1] with a mask of random blobs that it responds to."""
    noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), blur)
    mask = noise > np.quantile(noise, 0.93)
    evidence = ndimage.gaussian_filter(mask.astype(float), 1.5) + 0.25 * rng.random((side, side))
    return (evidence / evidence.max()).astype(np.float32) ** 2, mask


def accumulate(maps: list[np.ndarray], masks: list[np.ndarray | None], exact: bool = False) -> ScoreCounts:
    accumulator = pixel_accumulator(exact)
    for scores, mask in zip(maps, masks, strict=True):
        accumulator.update(scores, mask)
    return accumulator.counts()


def some_blobs(seed: int, images: int, side: int = 40) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    pairs = [blobs(rng, side) for _ in range(images)]
    return [scores for scores, _ in pairs], [mask for _, mask in pairs]


@given(st.lists(unit_floats, min_size=1, max_size=50))
def test_bin_of_a_score_is_the_last_threshold_it_reaches(values: list[float]) -> None:
    scores = np.array(values, dtype=np.float32)
    expected = np.searchsorted(THRESHOLDS, scores.astype(np.float64), side="right") - 1
    np.testing.assert_array_equal(score_bins(scores), expected)


def test_bins_are_monotone_and_fine_at_both_ends() -> None:
    ends = np.array([0.0, -0.0, 0.5, 1.0, 2**-149, 1 - 2**-24], dtype=np.float32)
    np.testing.assert_array_equal(score_bins(ends), [0, 0, 258048, BINS - 1, 0, BINS - 2])
    assert (np.diff(THRESHOLDS) >= 0).all()
    near_zero = np.float32(1e-6) * np.array([1, 1.001], dtype=np.float32)
    near_one = np.array([1 - 2**-20, 1 - 2**-21], dtype=np.float32)
    assert len(set(score_bins(near_zero))) == 2
    assert len(set(score_bins(near_one))) == 2


@pytest.mark.parametrize("exact", [False, True])
def test_closed_forms(exact: bool) -> None:
    mask = np.zeros((30, 30), dtype=bool)
    mask[3:9, 4:20] = mask[15:25, 15:17] = True
    perfect = accumulate([mask.astype(np.float32)], [mask], exact)
    assert (ranking_auroc(perfect), average_precision(perfect), aupro(perfect, 0.3)) == (1, 1, 1)
    assert f1_max(perfect) == (1, 1)
    inverted = accumulate([1 - mask.astype(np.float32)], [mask], exact)
    assert (ranking_auroc(inverted), aupro(inverted, 0.3)) == (0, 0)
    constant = accumulate([np.full(mask.shape, 0.37, dtype=np.float32)], [mask], exact)
    assert ranking_auroc(constant) == pytest.approx(0.5)
    assert average_precision(constant) == pytest.approx(mask.mean())
    assert aupro(constant, 0.3) == pytest.approx(0.15)  # the diagonal up to 0.3, divided by 0.3
    assert aupro(constant, 1.0) == pytest.approx(0.5)


def test_every_region_counts_the_same_whatever_its_area() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[0:10, 0:10] = mask[15, 15] = True  # 100 pixels and 1 pixel
    scores = np.zeros((20, 20), dtype=np.float32)
    scores[15, 15] = 0.9  # only the small one is found
    counts = accumulate([scores], [mask])
    # PRO is 1/2 at FPR 0, then rises linearly to 1 at FPR 1, where everything is positive.
    assert aupro(counts, 0.3) == pytest.approx(0.5 + 0.5 * 0.3 / 2)


def test_regions_touching_at_a_corner_are_one() -> None:
    mask = np.zeros((6, 6), dtype=bool)
    mask[1, 1] = mask[2, 2] = mask[4:6, 4] = True
    weights, regions = region_weights(mask)
    assert regions == 2
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
def test_exact_mode_equals_independent_references(limit: float) -> None:
    maps, masks = some_blobs(1, 3, side=24)
    maps = [np.round(scores, 2) for scores in maps]  # ties
    counts = accumulate(maps, list(masks), exact=True)
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([scores.ravel() for scores in maps])
    assert aupro(counts, limit) == pytest.approx(brute_force_aupro(maps, masks, limit), abs=1e-9)
    assert ranking_auroc(counts) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(counts) == pytest.approx(reference.average_precision_score(labels, scores), abs=1e-12)


def _saturated(scores: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-30 * (scores - 0.3)))).astype(np.float32)


@pytest.mark.parametrize("transform", [lambda s: s, lambda s: s * 1e-6, lambda s: s**6, _saturated])
def test_histograms_agree_with_exact_wherever_the_scores_lie(transform: object) -> None:
    maps, masks = some_blobs(2, 12)
    maps = [transform(scores).astype(np.float32) for scores in maps]  # type: ignore[operator]
    exact, binned = accumulate(maps, list(masks), exact=True), accumulate(maps, list(masks))
    assert ranking_auroc(binned) == pytest.approx(ranking_auroc(exact), abs=1e-4)
    assert average_precision(binned) == pytest.approx(average_precision(exact), abs=1e-4)
    assert aupro(binned, 0.3) == pytest.approx(aupro(exact, 0.3), abs=1e-4)
    assert aupro(binned, 0.05) == pytest.approx(aupro(exact, 0.05), abs=1e-4)
    f1_binned, f1_exact = f1_max(binned), f1_max(exact)
    assert f1_binned is not None
    assert f1_exact is not None
    assert f1_binned[0] == pytest.approx(f1_exact[0], abs=1e-3)
    assert f1_binned[1] == pytest.approx(f1_exact[1], rel=2e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.floats(0.3, 5), factor=st.floats(1e-4, 1))
def test_monotone_transforms_change_nothing_beyond_a_bin(seed: int, power: float, factor: float) -> None:
    maps, masks = some_blobs(seed, 2, side=20)
    before = accumulate(maps, list(masks))
    after = accumulate([(factor * scores.astype(float) ** power).astype(np.float32) for scores in maps], list(masks))
    assert ranking_auroc(after) == pytest.approx(ranking_auroc(before), abs=5e-4)
    assert aupro(after, 0.3) == pytest.approx(aupro(before, 0.3), abs=2e-3)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(5)), cut=st.integers(0, 5))
def test_order_of_images_and_merging_do_not_matter(order: list[int], cut: int) -> None:
    maps, masks = some_blobs(3, 5, side=20)
    at_once = accumulate(maps, list(masks))
    first, second = pixel_accumulator(), pixel_accumulator()
    for position, image in enumerate(order):
        (first if position < cut else second).update(maps[image], masks[image])
    merged = first.merged(second).counts()
    np.testing.assert_array_equal(merged.negatives, at_once.negatives)
    np.testing.assert_array_equal(merged.positives, at_once.positives)
    np.testing.assert_allclose(merged.region_mass, at_once.region_mass, atol=1e-9)
    assert merged.regions == at_once.regions


@pytest.mark.parametrize("exact", [False, True])
def test_good_images_count_as_normal_pixels_only(exact: bool) -> None:
    maps, masks = some_blobs(4, 2, side=20)
    empty = np.zeros_like(masks[0])
    with_none = accumulate([*maps, maps[0]], [*masks, None], exact)
    with_empty = accumulate([*maps, maps[0]], [*masks, empty], exact)
    np.testing.assert_array_equal(with_none.negatives, with_empty.negatives)
    assert with_none.negatives.sum() == sum((~mask).sum() for mask in masks) + maps[0].size
    assert with_none.regions == accumulate(maps, list(masks), exact).regions


@pytest.mark.parametrize("exact", [False, True])
def test_not_defined_without_anomalous_or_normal_pixels(exact: bool) -> None:
    scores = np.full((4, 4), 0.5, dtype=np.float32)
    for masks in ([], [None], [np.ones((4, 4), dtype=bool)]):
        counts = accumulate([scores] * len(masks), masks, exact)
        assert ranking_auroc(counts) is None
        assert average_precision(counts) is None
        assert f1_max(counts) is None
        assert aupro(counts, 0.3) is None
        assert pro_curve(counts) is None


@pytest.mark.parametrize(
    ("scores", "mask", "told"),
    [
        (np.full((4, 4), np.nan), None, "finite and in"),
        (np.full((4, 4), np.inf), None, "finite and in"),
        (np.full((4, 4), 1.5), None, "finite and in"),
        (np.full((4, 4), -0.1), None, "finite and in"),
        (np.zeros((4, 4)), np.zeros((4, 5), bool), "upsample the map"),
        (np.zeros((4, 4)), np.zeros((4, 4), np.uint8), "must be bool"),
        (np.zeros((2, 4, 4)), None, "height, width"),
        (np.zeros((0, 4)), None, "height, width"),
    ],
)
def test_bad_maps_are_refused_and_leave_the_counts_alone(
    scores: np.ndarray, mask: np.ndarray | None, told: str
) -> None:
    accumulator = pixel_accumulator()
    with pytest.raises(ValueError, match=told):
        accumulator.update(scores, mask)
    assert accumulator.counts().negatives.sum() == 0


def test_one_nan_pixel_is_enough_to_refuse() -> None:
    scores = np.zeros((8, 8), dtype=np.float32)
    scores[3, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        pixel_accumulator().update(scores, None)


def test_pro_curve_stops_at_the_limit_and_rises() -> None:
    maps, masks = some_blobs(6, 4)
    curve = pro_curve(accumulate(maps, list(masks)), limit=0.3, points=100)
    assert curve is not None
    fpr, pro, thresholds = curve
    assert len(fpr) <= 102
    assert (fpr[0], pro[0]) == (0, 0)
    assert fpr[-1] <= 0.3
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(pro) >= 0).all()
    assert (np.diff(thresholds) < 0).all()


def _peak_bytes(images: int) -> int:
    scores, mask = blobs(np.random.default_rng(0), side=128)
    accumulator = pixel_accumulator()
    tracemalloc.start()
    try:
        for _ in range(images):
            accumulator.update(scores, mask)
        aupro(accumulator.counts(), 0.3)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    few, many = _peak_bytes(10), _peak_bytes(100)
    assert many <= few * 1.05
    assert many < 40e6
