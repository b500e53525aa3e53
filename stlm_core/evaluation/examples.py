"""Examples for the contact sheet: a bounded number of thumbnails, worst misses first.

Memory: thumbnails of at most 224 x 224 pixels (0.4 MB), at most ``limit`` misses, ``limit`` false rejects and 24
right decisions of each defect type, whatever the number of images.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.predictions import Prediction
from stlm_core.seeding import derive_seed

THUMBNAIL_SIDE = 224
_SAMPLES_A_TYPE = 24

Outcome = Literal["missed", "false_reject", "found", "passed"]


@dataclass(frozen=True)
class Example:
    """A prediction at thumbnail size (h, w); ``mask`` keeps every region, however small."""

    path: str
    defect_type: str
    raw_score: float
    score: float
    outcome: Outcome
    image: npt.NDArray[np.uint8]
    anomaly_map: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_] | None


def outcome_of(label: int, rejected: bool) -> Outcome:
    """What a decision was worth."""
    if label == 1:
        return "found" if rejected else "missed"
    return "false_reject" if rejected else "passed"


class Best:
    """Keeps what has the ``capacity`` smallest keys; ties go by name, so the order of arrival does not matter."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._heap: list[tuple[float, tuple[int, ...], Example]] = []

    def offer(self, key: float, name: str, make: Callable[[], Example]) -> None:
        # A min-heap of negated keys has the largest kept key on top; the name is negated likewise, code by code.
        rank = (-key, tuple(-ord(letter) for letter in name))
        if len(self._heap) < self.capacity:
            heapq.heappush(self._heap, (*rank, make()))
        elif self._heap and rank > self._heap[0][:2]:
            heapq.heapreplace(self._heap, (*rank, make()))

    def sorted(self) -> list[Example]:
        return [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


class ExampleCollector:
    """Shown every prediction once, keeps those worth looking at."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._missed = Best(limit)
        self._false_rejects = Best(limit)
        self._right: dict[tuple[Outcome, str], Best] = {}

    def offer(self, prediction: Prediction, score: float, outcome: Outcome) -> None:
        """Consider one prediction with its calibrated score; makes thumbnails only of what it keeps."""
        if self.limit == 0:
            return

        def make() -> Example:
            return thumbnail(prediction, score, outcome)

        if outcome == "missed":
            self._missed.offer(prediction.raw_score, prediction.path, make)
        elif outcome == "false_reject":
            self._false_rejects.offer(-prediction.raw_score, prediction.path, make)
        else:
            sample = self._right.setdefault((outcome, prediction.defect_type), Best(min(self.limit, _SAMPLES_A_TYPE)))
            # A fixed pseudo-random order, so that the sample is neither the easiest nor the hardest.
            sample.offer(float(derive_seed(prediction.path)), prediction.path, make)

    def selected(self) -> list[Example]:
        """At most ``limit`` examples: misses (lowest score first), false rejects (highest first), then a sample of
        what was found, a type in turn, and of good images that passed.

        Errors get up to three quarters of the places, and all that the sample leaves.
        """
        missed, false = self._missed.sorted(), self._false_rejects.sorted()
        passed = _in_turn(best.sorted() for (outcome, _), best in sorted(self._right.items()) if outcome == "passed")
        found = _in_turn(best.sorted() for (outcome, _), best in sorted(self._right.items()) if outcome == "found")
        errors_kept = min(len(missed), -(-self.limit // 2)) + min(len(false), self.limit // 4)
        room = self.limit - errors_kept
        passed = passed[: max(room // 4, room - len(found))]
        found = found[: room - len(passed)]
        spare = self.limit - len(passed) - len(found)
        kept_false = min(len(false), max(self.limit // 4, spare - len(missed)))
        missed = missed[: spare - kept_false]
        return [*missed, *false[:kept_false], *found, *passed]


def _in_turn(groups: Iterable[list[Example]]) -> list[Example]:
    """The first of each group, then the second of each, and so on."""
    lists = list(groups)
    longest = max(map(len, lists), default=0)
    return [group[place] for place in range(longest) for group in lists if place < len(group)]


def thumbnail(prediction: Prediction, score: float, outcome: Outcome) -> Example:
    """``prediction`` at thumbnail size."""
    import cv2

    height, width = prediction.image.shape[:2]
    factor = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))  # (w, h), as OpenCV wants it

    def shrink(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.float32)

    return Example(
        prediction.path,
        prediction.defect_type,
        prediction.raw_score,
        score,
        outcome,
        image=shrink(prediction.image).astype(np.uint8),
        anomaly_map=shrink(np.asarray(prediction.anomaly_map, dtype=np.float32)),
        mask=None if prediction.mask is None else shrink(prediction.mask.astype(np.float32)) > 0,
    )
