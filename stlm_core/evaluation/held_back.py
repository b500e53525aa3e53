"""The held-back good images that decide the threshold, as pictures: a defect among them hides defects of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.detection import Detected
from stlm_core.evaluation.examples import Best, Example, outcome_of, thumbnail
from stlm_core.evaluation.operating_point import OperatingPoint
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
class HeldBack:
    """``examples``: the highest scores of the held-back images, calibrated, highest first: those that are at or above
    the threshold and so decide it (none where it is extrapolated from too few), but at least 4 and at most 8 if there
    are so many images. ``at_or_above``: how many are.
    """

    examples: tuple[Example, ...] = ()
    at_or_above: int = 0


def held_back(highest: Sequence[Example], raw_scores: npt.NDArray[np.float64], point: OperatingPoint) -> HeldBack:
    """What is shown of the ``highest`` of the images with ``raw_scores`` (n,), of which ``point`` was made."""
    at_or_above = int((np.asarray(raw_scores, np.float32) >= np.float32(point.raw_threshold)).sum())
    examples = (
        replace(
            example,
            score=float(point.calibrate(example.raw_score)),
            outcome=outcome_of(0, bool(point.is_anomalous(example.raw_score))),
        )
        for example in highest[: min(_MOST, max(_FEWEST, at_or_above))]
    )
    return HeldBack(tuple(examples), at_or_above)
