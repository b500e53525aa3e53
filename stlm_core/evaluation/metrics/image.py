"""Image-level metrics, exact, from one score an image. Memory is O(images)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.metrics.counts import ScoreCounts
from stlm_core.evaluation.metrics.ranking import average_precision, f1_max, ranking_auroc


def image_counts(labels: npt.ArrayLike, scores: npt.ArrayLike) -> ScoreCounts:
    """Counts per distinct score.

    ``labels`` (N,): 0 good, 1 anomalous. ``scores`` (N,): finite, larger is more anomalous.

    Raises:
        ValueError: different lengths, a label other than 0 and 1, or a score that is not finite.
    """
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"labels {truth.shape} and scores {values.shape} must be two lists of one length")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels must be 0 (good) or 1 (anomalous)")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} image scores are not finite")
    levels, level = np.unique(values, return_inverse=True)
    positives = np.bincount(level[truth == 1], minlength=len(levels)).astype(np.float64)
    negatives = np.bincount(level[truth == 0], minlength=len(levels)).astype(np.float64)
    return ScoreCounts(levels, positives, negatives, np.zeros(len(levels)), regions=0)


def image_auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Area under the ROC curve in [0, 1]; None unless both classes occur. Errors as :func:`image_counts`."""
    return ranking_auroc(image_counts(labels, scores))


def image_ap(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Average precision in [0, 1]; None unless both classes occur. Errors as :func:`image_counts`."""
    return average_precision(image_counts(labels, scores))


def image_f1_max(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[float, float] | None:
    """Largest F1 and its threshold (score >= threshold); None unless both classes occur."""
    return f1_max(image_counts(labels, scores))
