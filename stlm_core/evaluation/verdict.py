"""What the figures mean for the people at the line, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stlm_core.evaluation.intervals import chance_of_rejects
from stlm_core.evaluation.operating_point import OperatingPoint

Tone = Literal["good", "warn", "bad", "neutral"]

# name, title, what it means; in the order of the tables
FIGURES = (
    (
        "image_auroc",
        "Image AUROC",
        "How well scores rank parts: the chance that a defective part scores above a good one.",
    ),
    ("image_ap", "Image AP", "Precision averaged over recall; depends on the share of defects in the test set."),
    (
        "image_f1_max",
        "Image F1, best",
        "The best balance of precision and recall that any threshold reaches; needs defects to find it.",
    ),
    (
        "pixel_auroc",
        "Pixel AUROC",
        "The chance that a defective pixel scores above a normal one; large defects dominate.",
    ),
    ("pixel_ap", "Pixel AP", "As image AP, over pixels: strict, because defective pixels are rare."),
    ("pixel_f1_max", "Pixel F1, best", "The best agreement of a thresholded heat map with the ground truth."),
    (
        "aupro_30",
        "AUPRO, up to 30%",
        "Mean share of each defect that is covered, every defect counting the same, while up to 30% of normal "
        "pixels are marked.",
    ),
    ("aupro_05", "AUPRO, up to 5%", "The same while up to 5% of normal pixels are marked: the useful range."),
)

# Colours of the pages only; what may ship is decided by the promotion policy.
_RECALL_GOOD, _RECALL_WARN = 0.9, 0.6
_OVERLAP_GOOD, _OVERLAP_WARN = 0.85, 0.5
_NO_CHANCE = 0.025  # what happens less often by chance alone is put down to a difference of the images


@dataclass(frozen=True)
class Verdict:
    """One headline: a value with a sentence that says what it means."""

    title: str
    value: str
    sentence: str
    tone: Tone


def verdicts(metrics: Mapping[str, float | int], point: OperatingPoint) -> list[Verdict]:
    """Good parts rejected, defective parts found, defects located; ``metrics`` as in ``metrics.json``."""
    return [_rejected(metrics, point), _found(metrics), _located(metrics)]


def _rejected(metrics: Mapping[str, float | int], point: OperatingPoint) -> Verdict:
    title = "Good parts rejected"
    if "false_reject_rate" not in metrics:
        bound = point.guaranteed_false_reject
        sentence = (
            f"Of 1000 good parts at most about {_of(1000, bound)} would be rejected on average. That is the guarantee "
            "of the threshold; there is no good test image to measure it on."
        )
        return Verdict(title, f"≤ {bound:.1%}", sentence, "neutral")
    rate = metrics["false_reject_rate"]
    low, high = metrics["false_reject_rate_low"], metrics["false_reject_rate_high"]
    sentence = (
        f"Of 1000 good parts about {_of(1000, rate)} would be rejected (between {_of(1000, low)} and "
        f"{_of(1000, high)}, from {metrics['test_good']} test images). The budget is {_of(1000, point.budget)}."
    )
    if rate <= point.budget:
        return Verdict(title, f"{rate:.1%}", sentence, "good")
    if _by_chance(rate, int(metrics["test_good"]), point) < _NO_CHANCE:
        more = " More than chance explains: the held-back and the test images differ."
        return Verdict(title, f"{rate:.1%}", sentence + more, "bad")
    more = " Above the budget, but within what chance allows for so few images."
    return Verdict(title, f"{rate:.1%}", sentence + more, "warn")


def _by_chance(rate: float, images: int, point: OperatingPoint) -> float:
    """How often that many good test images or more are rejected where they are of the same source as the held-back
    ones. Several images of a part count once; a part is taken to have as many in the test as it has held back."""
    tested = max(1, images * point.calibration_parts // point.calibration_images)
    rejected = math.floor(rate * tested + 1e-9)
    return chance_of_rejects(rejected, tested, point.parts_above, point.calibration_parts)


def _found(metrics: Mapping[str, float | int]) -> Verdict:
    title = "Defective parts found"
    if "recall_at_budget" not in metrics:
        return Verdict(title, "unknown", "There is no defective test image to measure it on.", "neutral")
    recall = metrics["recall_at_budget"]
    low, high = metrics["recall_at_budget_low"], metrics["recall_at_budget_high"]
    sentence = (
        f"Of 100 defective parts like those tested {_of(100, recall)} are found (between {_of(100, low)} and "
        f"{_of(100, high)}, from {metrics['test_anomalous']} test images)."
    )
    tone: Tone = "good" if recall >= _RECALL_GOOD else "warn" if recall >= _RECALL_WARN else "bad"
    return Verdict(title, f"{recall:.1%}", sentence, tone)


def _located(metrics: Mapping[str, float | int]) -> Verdict:
    title = "Defects located"
    if "aupro_30" not in metrics:
        return Verdict(title, "unknown", "There are no masks to compare the heat maps with.", "neutral")
    value = metrics["aupro_30"]
    sentence = (
        f"AUPRO over {metrics['test_regions']} marked defects: 100% is every defect covered before any normal pixel is "
        "marked, 15% is no better than chance."
    )
    tone: Tone = "good" if value >= _OVERLAP_GOOD else "warn" if value >= _OVERLAP_WARN else "bad"
    return Verdict(title, f"{value:.1%}", sentence, tone)


def _of(total: int, share: float) -> int:
    return round(total * share)
