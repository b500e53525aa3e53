"""Metrics of anomaly detection: image level exact, pixel level in memory that does not grow with the images.

Every metric is validate / update / compute: accumulators validate and update, the functions of
:mod:`~stlm_core.evaluation.metrics.ranking` and :mod:`~stlm_core.evaluation.metrics.regions` compute from counts.
A metric that is not defined (a class without members, no region) is ``None``, never NaN.
"""

from stlm_core.evaluation.metrics.counts import ScoreCounts
from stlm_core.evaluation.metrics.image import image_ap, image_auroc, image_counts, image_f1_max
from stlm_core.evaluation.metrics.pixel import (
    ExactPixels,
    PixelAccumulator,
    PixelHistograms,
    pixel_accumulator,
    validate_map,
)
from stlm_core.evaluation.metrics.ranking import average_precision, f1_max, ranking_auroc, roc_curve
from stlm_core.evaluation.metrics.regions import aupro, pro_curve

__all__ = [
    "ExactPixels",
    "PixelAccumulator",
    "PixelHistograms",
    "ScoreCounts",
    "aupro",
    "average_precision",
    "f1_max",
    "image_ap",
    "image_auroc",
    "image_counts",
    "image_f1_max",
    "pixel_accumulator",
    "pro_curve",
    "ranking_auroc",
    "roc_curve",
    "validate_map",
]
