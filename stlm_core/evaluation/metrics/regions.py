"""AUPRO: area under the per-region-overlap curve (Bergmann et al., IJCV 2021), as in MVTec's evaluation code.

PRO(t) is the mean, over the connected ground-truth regions of all images, of the share of the region whose
score is at least t. Regions are 8-connected (MVTec's ``pro_curve_util`` labels with a 3 x 3 structure of ones).
The false positive rate is over the normal pixels of all images. The curve is integrated by trapezoids from 0 to
a limit of the false positive rate, linear in between, and divided by the limit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.metrics.counts import FloatArray, ScoreCounts, from_the_top
from stlm_core.evaluation.metrics.ranking import subsample


def region_weights(mask: npt.NDArray[np.bool_]) -> tuple[FloatArray, int]:
    """Weight 1 / area of its region for every anomalous pixel, in row-major order, and the number of regions.

    ``mask`` (H, W) -> ((anomalous pixels,) float64, regions). Regions are 8-connected.
    """
    import cv2

    number, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    of_pixel = labels[mask]
    areas = np.bincount(of_pixel, minlength=number)
    return 1.0 / areas[of_pixel], number - 1


def aupro(counts: ScoreCounts, limit: float) -> float | None:
    """Normalised area under the PRO curve up to the false positive rate ``limit`` in (0, 1].

    1 for a perfect map, ``limit`` / 2 for a constant one. None without a region or without a normal pixel.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"the limit of the false positive rate must be in (0, 1], not {limit}")
    curve = _curve(counts)
    if curve is None:
        return None
    fpr, pro = curve
    inside = int(np.searchsorted(fpr, limit, side="right"))
    x = np.append(fpr[:inside], limit)
    y = np.append(pro[:inside], np.interp(limit, fpr[inside - 1 : inside + 1], pro[inside - 1 : inside + 1]))
    return float(np.trapezoid(y, x) / limit)


def pro_curve(
    counts: ScoreCounts, limit: float = 1.0, points: int = 1000
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """False positive rate up to ``limit``, PRO and threshold, at most ``points`` + 2 each; None as :func:`aupro`."""
    curve = _curve(counts)
    if curve is None:
        return None
    fpr, pro = curve
    inside = max(2, int(np.searchsorted(fpr, limit, side="right")))
    thresholds = np.concatenate(([np.nextafter(1.0, 2.0)], counts.thresholds[::-1]))
    keep = subsample(fpr[:inside], pro[:inside], points)
    return fpr[keep], pro[keep], thresholds[keep]


def _curve(counts: ScoreCounts) -> tuple[FloatArray, FloatArray] | None:
    normal = from_the_top(counts.negatives)
    if counts.regions == 0 or normal[-1] == 0:
        return None
    overlap = from_the_top(counts.region_mass)
    return normal / normal[-1], overlap / overlap[-1]  # the total is the number of regions, up to rounding
