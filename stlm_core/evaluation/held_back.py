"""The held-back good images that decide the threshold, as pictures: a defect among them hides defects of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.detection import Detected
from stlm_core.evaluation.examples import Best, Example, outcome_of, thumbnail
from stlm_core.evaluation.operating_point import OperatingPoint, fit_operating_point
from stlm_core.evaluation.predictions import GOOD, Prediction

_FEWEST, _MOST = 4, 8  # pictures


class HighestScores:
    """Shown every held-back image once, keeps thumbnails of the highest scores; none if ``wanted`` is false."""

    def __init__(self, wanted: bool) -> None:
        self._best = Best(_MOST if wanted else 0)

    def offer(self, path: str, found: Detected[Any]) -> None:
        """Consider one image of the name ``path``."""
        raw = found.raw_score
        prediction = Prediction(path, 0, GOOD, raw, found.anomaly_map, None, found.image)
        # The score is known when all images are.
        self._best.offer(-raw, path, lambda: thumbnail(prediction, 0.0, "passed"))

    def sorted(self) -> list[Example]:
        """Highest first; ``score`` is not filled in."""
        return self._best.sorted()


@dataclass(frozen=True)
class Deciding:
    """``examples``: the highest scores, calibrated, highest first: all that are at or above the threshold as far as
    there are at most 8, and at least 4 if there are so many images. ``at_or_above``: how many images are. ``without``:
    calibrated score at which the threshold would be without these, None if none would be left.
    """

    examples: tuple[Example, ...]
    at_or_above: int
    without: float | None


def deciding(
    highest: Sequence[Example], raw_scores: npt.NDArray[np.float64], parts: Sequence[str], point: OperatingPoint
) -> Deciding:
    """Who decides ``point``, the operating point of ``raw_scores`` (n,) of images of ``parts`` (n)."""
    at_or_above = np.asarray(raw_scores, np.float32) >= np.float32(point.raw_threshold)
    count = int(at_or_above.sum())
    rest = raw_scores[~at_or_above]
    without = None
    if len(rest):
        others = [part for part, is_one in zip(parts, at_or_above, strict=True) if not is_one]
        without = float(point.calibrate(fit_operating_point(rest, point.budget, others).raw_threshold))
    shown = highest[: min(_MOST, max(_FEWEST, count))]
    examples = (
        replace(
            example,
            score=float(point.calibrate(example.raw_score)),
            outcome=outcome_of(0, bool(point.is_anomalous(example.raw_score))),
        )
        for example in shown
    )
    return Deciding(tuple(examples), count, without)
