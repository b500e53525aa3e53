"""AUROC, average precision and F1 from counts per score level; ties count as scikit-learn counts them."""

from __future__ import annotations

import numpy as np

from stlm_core.evaluation.metrics.counts import FloatArray, ScoreCounts, from_the_top


def ranking_auroc(counts: ScoreCounts) -> float | None:
    """Area under the ROC curve: P(positive > negative) + P(tie) / 2. None without both classes."""
    if not _both_classes(counts):
        return None
    positives, negatives = from_the_top(counts.positives), from_the_top(counts.negatives)
    return float(np.trapezoid(positives, negatives) / (positives[-1] * negatives[-1]))


def average_precision(counts: ScoreCounts) -> float | None:
    """Sum of precision times the recall gained, over levels from the top. None without both classes.

    The step-wise sum, not the trapezoid, which is too optimistic (scikit-learn's definition).
    """
    if not _both_classes(counts):
        return None
    true, false = from_the_top(counts.positives)[1:], from_the_top(counts.negatives)[1:]
    gained = counts.positives[::-1]
    used = gained > 0
    return float(np.sum(gained[used] * (true[used] / (true[used] + false[used]))) / true[-1])


def f1_max(counts: ScoreCounts) -> tuple[float, float] | None:
    """Largest F1 over all thresholds and the threshold it is reached at (predicted positive: score >= threshold).

    Of several thresholds with the same F1, the highest. None without both classes.
    """
    if not _both_classes(counts):
        return None
    true, false = from_the_top(counts.positives)[1:], from_the_top(counts.negatives)[1:]
    f1 = 2 * true / (true + false + true[-1])
    best = int(np.argmax(f1))
    return float(f1[best]), float(counts.thresholds[::-1][best])


def roc_curve(counts: ScoreCounts, points: int = 1000) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """False positive rate, true positive rate and threshold, from (0, 0) to (1, 1), at most ``points`` + 2 each.

    The first threshold, at which nothing is positive, is the next float above 1. None without both classes.
    """
    if not _both_classes(counts):
        return None
    true, false = from_the_top(counts.positives), from_the_top(counts.negatives)
    x, y = false / false[-1], true / true[-1]
    thresholds = np.concatenate(([np.nextafter(1.0, 2.0)], counts.thresholds[::-1]))
    keep = subsample(x, y, points)
    return x[keep], y[keep], thresholds[keep]


def subsample(x: FloatArray, y: FloatArray, points: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Indices of at most ``points`` + 2 vertices of a rising curve, both ends included, evenly spaced along it.

    Vertices that repeat their predecessor are left out first.
    """
    length = (x - x[0]) + (y - y[0])
    fresh = np.flatnonzero(np.concatenate(([True], np.diff(length) > 0)))
    if len(fresh) <= points + 2:
        return fresh
    wanted = np.linspace(0, length[-1], points)
    chosen = fresh[np.searchsorted(length[fresh], wanted).clip(0, len(fresh) - 1)]
    return np.unique(np.concatenate((fresh[:1], chosen, fresh[-1:])))


def _both_classes(counts: ScoreCounts) -> bool:
    return bool(counts.positives.any() and counts.negatives.any())
