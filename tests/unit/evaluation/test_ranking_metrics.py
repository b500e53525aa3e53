"""Image-level metrics against scikit-learn, closed forms and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from stlm_core.evaluation.metrics import (
    f1_max,
    image_ap,
    image_auroc,
    image_counts,
    image_f1_max,
    roc_curve,
)

# Few distinct scores, so that ties within and across the classes are the rule.
tied_scores = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=2, max_size=60
).filter(lambda pairs: len({label for label, _ in pairs}) == 2)


@given(tied_scores)
def test_equal_to_scikit_learn_with_ties(pairs: list[tuple[int, float]]) -> None:
    labels, scores = map(np.array, zip(*pairs, strict=True))
    assert image_auroc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    assert image_ap(labels, scores) == pytest.approx(reference.average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = reference.precision_recall_curve(labels, scores)
    best = image_f1_max(labels, scores)
    assert best is not None
    expected = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert best[0] == pytest.approx(expected, abs=1e-12)
    assert reference.f1_score(labels, scores >= best[1]) == pytest.approx(best[0], abs=1e-12)


@given(tied_scores, st.randoms(use_true_random=False))
def test_order_and_monotone_transforms_do_not_matter(pairs: list[tuple[int, float]], shuffler: object) -> None:
    labels, scores = map(np.array, zip(*pairs, strict=True))
    order = np.array(shuffler.sample(range(len(pairs)), len(pairs)))  # type: ignore[attr-defined]
    assert image_auroc(labels[order], scores[order]) == pytest.approx(image_auroc(labels, scores), abs=1e-12)
    assert image_auroc(labels, np.exp(3 * scores) - 7) == pytest.approx(image_auroc(labels, scores), abs=1e-12)
    assert image_ap(labels, np.exp(3 * scores) - 7) == pytest.approx(image_ap(labels, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "auroc", "ap"),
    [([0.1, 0.2, 0.8, 0.9], 1.0, 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0, 5 / 12), ([0.3, 0.3, 0.3, 0.3], 0.5, 0.5)],
)
def test_closed_forms(scores: list[float], auroc: float, ap: float) -> None:
    labels = [0, 0, 1, 1]
    assert image_auroc(labels, scores) == pytest.approx(auroc)
    assert image_ap(labels, scores) == pytest.approx(ap)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_not_defined_without_both_classes(labels: list[int]) -> None:
    scores = [0.5] * len(labels)
    assert image_auroc(labels, scores) is None
    assert image_ap(labels, scores) is None
    assert image_f1_max(labels, scores) is None
    assert roc_curve(image_counts(labels, scores)) is None


@pytest.mark.parametrize(
    ("labels", "scores", "told"),
    [
        ([0, 1], [0.1], "one length"),
        ([0, 2], [0.1, 0.2], "labels must be 0"),
        ([0, 1], [0.1, np.nan], "1 of 2 image scores are not finite"),
        ([0, 1], [np.inf, 0.1], "not finite"),
    ],
)
def test_bad_input_is_named(labels: list[int], scores: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        image_counts(labels, scores)


def test_f1_prefers_the_highest_of_equal_thresholds() -> None:
    # F1 is 2/3 both at >= 0.9 (1 of 2 found, none false) and at >= 0.2 (both found, 2 false).
    best = f1_max(image_counts([1, 0, 0, 1], [0.9, 0.5, 0.4, 0.2]))
    assert best == (pytest.approx(2 / 3), 0.9)


def test_roc_curve_is_that_of_scikit_learn_and_subsamples() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 5000)
    scores = np.round(rng.random(5000) * 0.8 + 0.2 * labels, 3)
    counts = image_counts(labels, scores)
    full = roc_curve(counts, points=10_000)
    assert full is not None
    fpr, tpr, thresholds = reference.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(full[0], fpr)
    np.testing.assert_allclose(full[1], tpr)
    np.testing.assert_allclose(full[2][1:], thresholds[1:])
    few = roc_curve(counts, points=50)
    assert few is not None
    assert len(few[0]) <= 52
    assert (few[0][0], few[1][0], few[0][-1], few[1][-1]) == (0, 0, 1, 1)
    assert np.trapezoid(few[1], few[0]) == pytest.approx(image_auroc(labels, scores), abs=1e-3)
