"""What every ranking metric is computed from: counts per score level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoreCounts:
    """Positives and negatives per score level; levels are distinct scores (exact) or bins of scores.

    ``thresholds`` (L,) float64, ascending: a score belongs to level i or above exactly when it is at least
    ``thresholds[i]``. ``positives`` and ``negatives`` (L,) float64 are counts. ``region_mass`` (L,) float64 is the sum
    over connected ground-truth regions of the share of the region's pixels at that level, ``regions`` how many
    regions there are; both are zero at image level.
    """

    thresholds: FloatArray
    positives: FloatArray
    negatives: FloatArray
    region_mass: FloatArray
    regions: int


def from_the_top(counts: FloatArray) -> FloatArray:
    """Counts at or above each level, from the highest level down, with a leading 0: (L,) -> (L + 1,)."""
    return np.concatenate(([0.0], np.cumsum(counts[::-1])))
