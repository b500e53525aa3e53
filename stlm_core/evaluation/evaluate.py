"""From a stream of predictions to metrics, tables, curves and examples.

Memory, whatever the number of images: 7 MB of histograms for the good images and for each defect type, a
bounded number of thumbnails, and a table row and a few kilobytes of evidence an image. Maps and images are let go one
by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from stlm_core.errors import StlmError
from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.evidence_collector import EvidenceCollector
from stlm_core.evaluation.examples import Example, ExampleCollector, outcome_of
from stlm_core.evaluation.intervals import wilson
from stlm_core.evaluation.metrics import (
    ExactPixels,
    PixelHistograms,
    ScoreCounts,
    aupro,
    average_precision,
    f1_max,
    image_counts,
    pixel_accumulator,
    pro_curve,
    ranking_auroc,
    roc_curve,
)
from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.evaluation.predictions import GOOD, Prediction

Metrics = dict[str, float | int]

IMAGE_COLUMNS = (
    *("path", "label", "defect_type", "raw_score", "score", "is_anomalous", "outcome", "has_mask", "sha256", "group"),
)


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    ``metrics``: flat, fractions of 1 and counts; what is not defined is absent and ``notes`` says why. ``images``: a
    row an image, columns :data:`IMAGE_COLUMNS`. ``defects``: a row a defect type, worst recall first, not defined
    values are NaN (empty in CSV). ``curves``: "roc" and "pixel_roc" (fpr, tpr, threshold), "pro" (fpr, pro,
    threshold), those that are defined. ``examples``: worst misses first. ``evidence``: what promotions compare.
    """

    metrics: Metrics
    images: pd.DataFrame
    defects: pd.DataFrame
    curves: dict[str, pd.DataFrame]
    examples: list[Example]
    notes: list[str]
    evidence: Evidence


def evaluate_predictions(
    predictions: Iterable[Prediction],
    operating_point: OperatingPoint,
    *,
    report_images: int = 24,
    exact: bool = False,
) -> Evaluation:
    """Evaluate a test split shown one prediction at a time.

    ``report_images``: how many examples to keep. ``exact``: keep all pixel scores instead of histograms (memory then
    grows with the images).

    Raises:
        StlmError: the detector's score or map of an image is not finite, not in [0, 1] or of another size than its
            image or mask; the message names the image.
    """
    pixels: dict[str, PixelHistograms | ExactPixels] = {GOOD: pixel_accumulator(exact)}
    examples, evidence = ExampleCollector(report_images), EvidenceCollector()
    rows = []
    for prediction in predictions:
        _check(prediction)
        rejected = bool(operating_point.is_anomalous(prediction.raw_score))
        score = float(operating_point.calibrate(prediction.raw_score))
        outcome = outcome_of(prediction.label, rejected)
        examples.offer(prediction, score, outcome)
        has_mask = prediction.mask is not None
        rows.append(
            (
                prediction.path,
                prediction.label,
                prediction.defect_type,
                prediction.raw_score,
                score,
                rejected,
                outcome,
                has_mask,
                prediction.sha256,
                prediction.group,
            )
        )
        if prediction.label == 0 or has_mask:
            group = GOOD if prediction.label == 0 else prediction.defect_type
            _update(pixels.setdefault(group, pixel_accumulator(exact)), prediction)
        evidence.add(prediction, score, rejected)
    images = pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)).astype(
        {"label": "int64", "raw_score": "float64", "score": "float64", "is_anomalous": "bool", "has_mask": "bool"}
    )
    everything = pixel_accumulator(exact)
    for seen in pixels.values():
        everything = everything.merged(seen)  # type: ignore[arg-type]  # one kind throughout
    image_level = image_counts(images["label"], images["raw_score"])
    pixel_level = everything.counts()
    return Evaluation(
        metrics=_metrics(images, image_level, pixel_level, operating_point),
        images=images,
        defects=_defects(images, pixels),
        curves=_curves(image_level, pixel_level),
        examples=examples.selected(),
        notes=_notes(images),
        evidence=evidence.build(),
    )


def _check(prediction: Prediction) -> None:
    if not 0 <= prediction.raw_score <= 1:
        raise StlmError(f"{prediction.path}: the detector's score is {prediction.raw_score}, not a number in [0, 1]")
    if prediction.anomaly_map.shape != prediction.image.shape[:2]:
        raise StlmError(
            f"{prediction.path}: the anomaly map is {prediction.anomaly_map.shape}, the image "
            f"{prediction.image.shape[:2]}"
        )
    if prediction.label not in (0, 1) or (prediction.label == 0) != (prediction.defect_type == GOOD):
        raise StlmError(
            f"{prediction.path}: label {prediction.label} does not go with defect type {prediction.defect_type}"
        )


def _update(accumulator: PixelHistograms | ExactPixels, prediction: Prediction) -> None:
    try:
        accumulator.update(prediction.anomaly_map, prediction.mask if prediction.label == 1 else None)
    except ValueError as error:
        raise StlmError(f"{prediction.path}: {error}") from None


def _metrics(
    images: pd.DataFrame, image_level: ScoreCounts, pixel_level: ScoreCounts, operating_point: OperatingPoint
) -> Metrics:
    good, anomalous = images[images["label"] == 0], images[images["label"] == 1]
    values: dict[str, float | int | None] = {
        **_ranking("image", image_level),
        **_ranking("pixel", pixel_level),
        **_overlap(pixel_level),
        **_share("recall_at_budget", anomalous),
        **_share("false_reject_rate", good),
        "threshold": operating_point.raw_threshold,
        "false_reject_budget": operating_point.budget,
        "guaranteed_false_reject": operating_point.guaranteed_false_reject,
        "budget_confidence": operating_point.confidence,
        "calibration_images": operating_point.calibration_images,
        "calibration_parts": operating_point.calibration_parts,
        "test_good": len(good),
        "test_anomalous": len(anomalous),
        "test_masks": int(anomalous["has_mask"].sum()),
        "test_regions": pixel_level.regions,
    }
    return _defined(values)


def _ranking(level: str, counts: ScoreCounts) -> dict[str, float | int | None]:
    best = f1_max(counts)
    return {
        f"{level}_auroc": ranking_auroc(counts),
        f"{level}_ap": average_precision(counts),
        f"{level}_f1_max": best[0] if best else None,
        f"{level}_f1_max_threshold": best[1] if best else None,
    }


def _overlap(counts: ScoreCounts) -> dict[str, float | int | None]:
    return {"aupro_30": aupro(counts, 0.3), "aupro_05": aupro(counts, 0.05)}


def _share(name: str, images: pd.DataFrame) -> dict[str, float | int | None]:
    """Share of the images that are rejected, with its 95 % interval."""
    if images.empty:
        return {}
    rejected = int(images["is_anomalous"].sum())
    low, high = wilson(rejected, len(images))
    return {name: rejected / len(images), f"{name}_low": low, f"{name}_high": high}


def _defined(values: dict[str, float | int | None]) -> Metrics:
    return {name: value for name, value in values.items() if value is not None}


def _defects(images: pd.DataFrame, pixels: dict[str, PixelHistograms | ExactPixels]) -> pd.DataFrame:
    """Each type's anomalous images together with all good images, whose histogram is shared."""
    good = images[images["label"] == 0]
    columns = [
        *("defect_type", "images", "found", "recall", "recall_low", "recall_high", "median_score"),
        *("image_auroc", "image_ap", "regions", "pixel_auroc", "pixel_ap", "aupro_30", "aupro_05"),
    ]
    rows = []
    for defect_type, own in images[images["label"] == 1].groupby("defect_type", sort=True):
        both = pd.concat([good, own])
        image_level = image_counts(both["label"], both["raw_score"])
        row: dict[str, float | int | str | None] = {
            "defect_type": str(defect_type),
            "images": len(own),
            "found": int(own["is_anomalous"].sum()),
            **_share("recall", own),
            "median_score": float(own["score"].median()),
            "image_auroc": ranking_auroc(image_level),
            "image_ap": average_precision(image_level),
        }
        if str(defect_type) in pixels:
            counts = pixels[GOOD].merged(pixels[str(defect_type)]).counts()  # type: ignore[arg-type]
            row |= {
                "regions": counts.regions,
                "pixel_auroc": ranking_auroc(counts),
                "pixel_ap": average_precision(counts),
                **_overlap(counts),
            }
        rows.append(row)
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["recall", "median_score", "defect_type"], ignore_index=True)


def _curves(image_level: ScoreCounts, pixel_level: ScoreCounts) -> dict[str, pd.DataFrame]:
    found = {
        "roc": (roc_curve(image_level), "tpr"),
        "pixel_roc": (roc_curve(pixel_level), "tpr"),
        "pro": (pro_curve(pixel_level), "pro"),
    }
    return {
        name: pd.DataFrame({"fpr": curve[0], height: curve[1], "threshold": curve[2]})
        for name, (curve, height) in found.items()
        if curve is not None
    }


def _notes(images: pd.DataFrame) -> list[str]:
    good, anomalous = int((images["label"] == 0).sum()), int((images["label"] == 1).sum())
    masks = int(images.loc[images["label"] == 1, "has_mask"].sum())
    if images.empty:
        return ["The line has no test images: nothing could be measured, only the operating point is known."]
    notes = []
    if good == 0:
        notes.append(
            "The test split has no good images: the false-reject rate and the ranking metrics are not defined."
        )
    if anomalous == 0:
        notes.append("The test split has no defective images: recall, ranking and localisation are not defined.")
    elif masks == 0:
        notes.append("The defective images have no masks: only image-level metrics are defined.")
    elif masks < anomalous:
        notes.append(
            f"{anomalous - masks} of {anomalous} defective images have no mask: they count at image level only."
        )
    if 0 < good < 30:
        notes.append(f"Only {good} good test images: the measured false-reject rate is a rough figure.")
    if 0 < anomalous < 30:
        notes.append(f"Only {anomalous} defective test images: the measured recall is a rough figure.")
    return notes
