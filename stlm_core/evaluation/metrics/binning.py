"""Scores in [0, 1] to a fixed set of bins that is fine where detectors put their scores: near 0 and near 1.

The bit pattern of a non-negative float32, read as an integer, grows with the float; its upper bits are
therefore a logarithmic bin number that costs one shift. Below 0.5 the bins are those of the score x, from 0.5 on
those of 1 - x (exact in float32) counted backwards, so that a saturated sigmoid keeps its ranking on both sides.
Bins are 2^-11 of the distance to the nearer end wide (a relative width of 0.05 %); the 24 octaves next to 1 that
float32 can represent and all octaves next to 0 have bins of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SHIFT = 12  # of 23 mantissa bits, 11 stay: 2048 bins an octave
_HALF = 126 << (23 - _SHIFT)  # bin number of 0.5
_NEAR_ONE = (103 << (23 - _SHIFT)) - 1  # just below the bin of 2^-24, the smallest 1 - x other than 0
_SIGN_FREE = (1 << (31 - _SHIFT)) - 1

BINS = 2 * _HALF - _NEAR_ONE + 1  # 305,154


def score_bins(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Bin numbers of ``scores``: float32 in [0, 1], any shape -> intp in [0, BINS), same shape. Monotone."""
    half = np.float32(0.5)
    numbers = np.minimum(scores, half).view(np.int32)  # _HALF from 0.5 on
    np.right_shift(numbers, _SHIFT, out=numbers)
    np.bitwise_and(numbers, _SIGN_FREE, out=numbers)  # -0.0 is 0
    distance = np.maximum(scores, half)
    np.subtract(np.float32(1), distance, out=distance)
    beyond = distance.view(np.int32)
    np.right_shift(beyond, _SHIFT, out=beyond)
    np.maximum(beyond, _NEAR_ONE, out=beyond)
    np.subtract(_HALF, beyond, out=beyond)  # 0 up to 0.5
    np.add(numbers, beyond, out=numbers)
    return numbers.astype(np.intp)


def bin_thresholds() -> npt.NDArray[np.float64]:
    """Smallest float32 score of each bin, ascending: (BINS,) float64.

    Next to 1 there are more bins than float32 numbers; a bin that can hold no number repeats the threshold of
    the next bin that can.
    """
    below = _lower_edge(np.arange(_HALF))
    # Upper half: the scores whose distance to 1 has number b have that distance below the lower edge of b + 1, and
    # in [0.5, 1] a float32 is a multiple of 2^-24: the smallest score is the first multiple above 1 - that edge.
    next_edge = _lower_edge(np.arange(_HALF, _NEAR_ONE - 1, -1) + 1)
    above = (np.floor((1 - next_edge) * 2.0**24) + 1) / 2.0**24
    above[0], above[-1] = 0.5, 1.0
    return np.concatenate([below, above])


def _lower_edge(numbers: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    return (numbers << _SHIFT).astype(np.int32).view(np.float32).astype(np.float64)
