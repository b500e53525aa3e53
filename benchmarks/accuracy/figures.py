"""Figures of a test split: from scores and maps, whoever made them, by the pipeline's own metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.lines import load_pair
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.evaluation.detection import detect
from stlm_core.evaluation.metrics import (
    aupro,
    average_precision,
    image_ap,
    image_auroc,
    image_f1_max,
    pixel_accumulator,
    ranking_auroc,
)
from stlm_core.models.detector import Detector
from stlm_core.training.optimisation import pick_device

# In the order of the tables. `recall_at_1` is at a false-reject rate of 1 % of the good test images.
FIGURES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro_30": "AUPRO@0.3",
    "aupro_05": "AUPRO@0.05",
    "recall_at_1": "recall at 1 % FRR",
    "recall_at_budget": "recall at budget",
    "false_reject_rate": "false rejects",
}
STRICT = 0.01
_BATCH = 8


def recall_at_fpr(labels: npt.ArrayLike, scores: npt.ArrayLike, limit: float = STRICT) -> float | None:
    """The largest recall that a threshold can have which rejects at most the share ``limit`` of the good images.

    ``labels`` (N,): 0 good, 1 anomalous. ``scores`` (N,): larger is more anomalous; rejected is what lies above the
    threshold. With fewer than 1 / ``limit`` good images no good image may be rejected. None unless both classes occur.
    """
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    good, anomalous = values[truth == 0], values[truth == 1]
    if not len(good) or not len(anomalous):
        return None
    allowed = int(limit * len(good) + 1e-9)  # 0.01 * 300 is 3, whatever binary fractions say
    if allowed >= len(good):
        return 1.0
    threshold = np.sort(good)[::-1][allowed]
    return float((anomalous > threshold).mean())


def image_figures(labels: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, float]:
    """Image-level figures, those that are defined."""
    best = image_f1_max(labels, scores)
    values = {
        "image_auroc": image_auroc(labels, scores),
        "image_ap": image_ap(labels, scores),
        "image_f1_max": best[0] if best else None,
        "recall_at_1": recall_at_fpr(labels, scores),
    }
    return {name: value for name, value in values.items() if value is not None}


def pixel_figures(
    maps: Iterable[tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_] | None]],
) -> dict[str, float]:
    """Pixel-level figures, those that are defined, of maps (H, W) in [0, 1] with masks (H, W), None for good images."""
    pixels = pixel_accumulator()
    for anomaly_map, mask in maps:
        pixels.update(anomaly_map, mask)
    counts = pixels.counts()
    values = {
        "pixel_auroc": ranking_auroc(counts),
        "pixel_ap": average_precision(counts),
        "aupro_30": aupro(counts, 0.3),
        "aupro_05": aupro(counts, 0.05),
    }
    return {name: value for name, value in values.items() if value is not None}


def detector_figures(detector: Detector, manifest: Manifest, rows: Sequence[ManifestRow]) -> dict[str, float]:
    """Image-level and pixel-level figures of ``rows``; a defective image without a mask counts for the former alone.

    ``detector``: in eval mode on the device of ``pick_device``.
    """
    labels: list[int] = []
    scores: list[float] = []

    def maps() -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]]:
        pairs = ((row, load_pair(manifest, row)) for row in rows)
        images = (((row.label, mask), image) for row, (image, mask) in pairs)
        for one in detect(detector, images, pick_device(), _BATCH):
            label, mask = one.item
            labels.append(label)
            scores.append(one.raw_score)
            if label == 0 or mask is not None:
                yield one.anomaly_map, mask

    figures = pixel_figures(maps())
    return figures | image_figures(labels, scores)
