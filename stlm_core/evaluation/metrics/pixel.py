"""Pixel-level accumulators: images are shown one at a time, metrics come from the counts.

:class:`PixelHistograms` needs 7 MB whatever the number and size of the images (three histograms of
:data:`~stlm_core.evaluation.metrics.binning.BINS` bins); its metrics differ from the exact ones by what falls
into one bin of 0.05 % relative width. :class:`ExactPixels` keeps every score (4 bytes a pixel, about five times
that while computing) for tests and small sets.
"""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.metrics.binning import BINS, bin_thresholds, score_bins
from stlm_core.evaluation.metrics.counts import ScoreCounts
from stlm_core.evaluation.metrics.regions import region_weights

MapArray = npt.NDArray[np.floating]
MaskArray = npt.NDArray[np.bool_]
_STRIP = 1 << 15  # pixels whose bins are found at once: what that needs stays in the processor's cache


class PixelAccumulator(Protocol):
    """Takes anomaly maps with their masks one image at a time and yields counts per score level."""

    def update(self, anomaly_map: MapArray, mask: MaskArray | None) -> None:
        """Add one image: map (H, W) in [0, 1], mask (H, W) bool or None for a good image (no anomalous pixel)."""

    def merged(self, other: Self) -> Self:
        """A new accumulator that has seen the images of both; neither is changed."""

    def counts(self) -> ScoreCounts:
        """Counts over everything seen."""


def pixel_accumulator(exact: bool = False) -> PixelHistograms | ExactPixels:
    """Histograms in constant memory, or with ``exact`` every score."""
    return ExactPixels() if exact else PixelHistograms()


def validate_map(anomaly_map: MapArray, mask: MaskArray | None) -> npt.NDArray[np.float32]:
    """The map as contiguous float32, checked against its mask, which is compared at its own resolution.

    Raises:
        ValueError: not (H, W), empty, another shape or dtype than bool of the mask, or a score that is not
            finite or not in [0, 1].
    """
    scores = np.ascontiguousarray(anomaly_map, dtype=np.float32)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"an anomaly map must be (height, width), not {np.shape(anomaly_map)}")
    if mask is not None and mask.shape != scores.shape:
        raise ValueError(f"the mask is {mask.shape} and the anomaly map {scores.shape}; upsample the map to the mask")
    if mask is not None and mask.dtype != np.bool_:
        raise ValueError(f"the mask must be bool, not {mask.dtype}; binarise it with one rule (> 0)")
    low, high = scores.min(), scores.max()  # NaN spreads through both
    if not (low >= 0 and high <= 1):
        raise ValueError(f"anomaly map scores must be finite and in [0, 1], found {low} to {high}")
    return scores


class PixelHistograms:
    """Histograms of normal and anomalous pixels and of region shares; see the module for memory and accuracy."""

    def __init__(self) -> None:
        self._negatives = np.zeros(BINS, dtype=np.int64)
        self._positives = np.zeros(BINS, dtype=np.int64)
        self._region_mass = np.zeros(BINS, dtype=np.float64)
        self._regions = 0

    def update(self, anomaly_map: MapArray, mask: MaskArray | None) -> None:
        """Add one image; errors as :func:`validate_map`."""
        scores = validate_map(anomaly_map, mask)
        flat = scores.ravel()
        for start in range(0, flat.size, _STRIP):
            # In place: bincount would allocate all bins every time.
            np.add.at(self._negatives, score_bins(flat[start : start + _STRIP]), 1)
        if mask is None or not mask.any():
            return
        anomalous = score_bins(scores[mask])
        weights, regions = region_weights(mask)
        np.subtract.at(self._negatives, anomalous, 1)
        np.add.at(self._positives, anomalous, 1)
        np.add.at(self._region_mass, anomalous, weights)
        self._regions += regions

    def merged(self, other: PixelHistograms) -> PixelHistograms:
        """A new accumulator that has seen the images of both."""
        both = PixelHistograms()
        both._negatives = self._negatives + other._negatives
        both._positives = self._positives + other._positives
        both._region_mass = self._region_mass + other._region_mass
        both._regions = self._regions + other._regions
        return both

    def counts(self) -> ScoreCounts:
        """Counts per bin that holds a pixel."""
        used = (self._negatives > 0) | (self._positives > 0)
        return ScoreCounts(
            bin_thresholds()[used],
            self._positives[used].astype(np.float64),
            self._negatives[used].astype(np.float64),
            self._region_mass[used],
            self._regions,
        )


class ExactPixels:
    """Keeps every score: memory grows with the number of pixels."""

    def __init__(self) -> None:
        self._normal: list[npt.NDArray[np.float32]] = []
        self._anomalous: list[npt.NDArray[np.float32]] = []
        self._weights: list[npt.NDArray[np.float64]] = []
        self._regions = 0

    def update(self, anomaly_map: MapArray, mask: MaskArray | None) -> None:
        """Add one image; errors as :func:`validate_map`."""
        scores = validate_map(anomaly_map, mask)
        if mask is None or not mask.any():
            self._normal.append(scores.ravel().copy())
            return
        weights, regions = region_weights(mask)
        self._normal.append(scores[~mask])
        self._anomalous.append(scores[mask])
        self._weights.append(weights)
        self._regions += regions

    def merged(self, other: ExactPixels) -> ExactPixels:
        """A new accumulator that has seen the images of both (the scores themselves are shared)."""
        both = ExactPixels()
        both._normal = self._normal + other._normal
        both._anomalous = self._anomalous + other._anomalous
        both._weights = self._weights + other._weights
        both._regions = self._regions + other._regions
        return both

    def counts(self) -> ScoreCounts:
        """Counts per distinct score."""
        none = [np.zeros(0, dtype=np.float32)]
        normal, anomalous = np.concatenate(self._normal or none), np.concatenate(self._anomalous or none)
        weights = np.concatenate(self._weights or [np.zeros(0)])
        levels, level = np.unique(np.concatenate((normal, anomalous)), return_inverse=True)
        of_normal, of_anomalous = level[: len(normal)], level[len(normal) :]
        return ScoreCounts(
            levels.astype(np.float64),
            np.bincount(of_anomalous, minlength=len(levels)).astype(np.float64),
            np.bincount(of_normal, minlength=len(levels)).astype(np.float64),
            np.bincount(of_anomalous, weights=weights, minlength=len(levels)).astype(np.float64),
            self._regions,
        )
