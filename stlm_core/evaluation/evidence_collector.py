"""Gathers :class:`~stlm_core.evaluation.evidence.Evidence` while an evaluation shows its images one at a time."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.metrics.binning import BINS, bin_thresholds, score_bins
from stlm_core.evaluation.metrics.pixel import validate_map
from stlm_core.evaluation.metrics.regions import region_weights
from stlm_core.evaluation.predictions import Prediction

_COARSER = 4  # bits: 128 levels an octave, 0.8 % wide
LEVELS = (BINS >> _COARSER) + 1
# False positive rates at which thresholds are wanted: dense where AUPRO is integrated and the curve is steep, some
# beyond, because a resampling moves the rates.
_RATES = np.concatenate([0.35 * np.linspace(0, 1, 96) ** 3, np.linspace(0.36, 1, 16)])
_IN_MEMORY = 1 << 26  # bytes of counts before they move to a file without a name in the system's temporary folder


@dataclass(frozen=True, slots=True)
class _Sparse:
    """Counts at the levels that occur, in 6 bytes a level."""

    levels: npt.NDArray[np.uint16]
    values: npt.NDArray[np.float32]

    def at_or_above(self, chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Sums over the levels from each of ``chosen`` (descending level numbers) upwards."""
        total = np.concatenate([[0.0], np.cumsum(self.values[::-1], dtype=np.float64)])
        position = np.searchsorted(self.levels, chosen.astype(np.uint16), side="left")
        sums: npt.NDArray[np.float64] = total[len(self.levels) - position]
        return sums


class _Kept:
    """Counts of one image after the other, in the order they came: a few kilobytes each, which are read once."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed when read
        self._lengths: list[int] = []

    def append(self, counts: npt.NDArray[np.float64]) -> None:
        """Keep the levels of ``counts`` (LEVELS,) that are not zero."""
        levels = np.flatnonzero(counts)
        self._file.write(levels.astype(np.uint16).tobytes() + counts[levels].astype(np.float32).tobytes())
        self._lengths.append(len(levels))

    def read_once(self) -> Iterator[_Sparse]:
        """Everything kept; nothing is left afterwards."""
        with self._file as file:
            file.seek(0)
            for length in self._lengths:
                levels = np.frombuffer(file.read(2 * length), np.uint16)
                yield _Sparse(levels, np.frombuffer(file.read(4 * length), np.float32))


class EvidenceCollector:
    """Some 2 KiB an image in memory, whatever its size. The counts of its map, up to 12 KiB, wait until the thresholds
    can be chosen, when all images have been seen: two times 64 MiB of them in memory, any more on the disk."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, int, str, float, bool]] = []
        self._normal, self._regions = _Kept(), _Kept()
        self._counts: list[tuple[int, int]] = []
        self._pooled = np.zeros(LEVELS, dtype=np.int64)

    def add(self, prediction: Prediction, score: float, rejected: bool) -> None:
        """One image; ``score`` is calibrated.

        Raises:
            ValueError: the map does not go with the mask, or is not in [0, 1].
        """
        label = prediction.label
        self._rows.append(
            (prediction.path, prediction.sha256, prediction.group, label, prediction.defect_type, score, rejected)
        )
        if label == 1 and prediction.mask is None:
            self._keep(np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp), np.zeros(0), 0)
            return
        mask = prediction.mask if label == 1 else None
        level = score_bins(validate_map(prediction.anomaly_map, mask)) >> _COARSER
        if mask is None or not mask.any():
            self._keep(level.ravel(), np.zeros(0, dtype=np.intp), np.zeros(0), 0)
            return
        weights, regions = region_weights(mask)
        self._keep(level[~mask], level[mask], weights, regions)

    def _keep(
        self,
        normal: npt.NDArray[np.intp],
        anomalous: npt.NDArray[np.intp],
        weights: npt.NDArray[np.float64],
        regions: int,
    ) -> None:
        counts = np.bincount(normal, minlength=LEVELS)
        self._pooled += counts
        self._normal.append(counts.astype(np.float64))
        self._regions.append(np.bincount(anomalous, weights, minlength=LEVELS).astype(np.float64))
        self._counts.append((len(normal), regions))

    def build(self) -> Evidence:
        """Everything seen. To be called once: the counts are gone afterwards."""
        chosen, thresholds = self._thresholds()
        columns = list(zip(*self._rows, strict=True)) or [()] * 7
        number = len(self._rows)
        counts = np.array(self._counts, dtype=np.int64).reshape(number, 2)
        false_positives = np.zeros((number, len(chosen)), np.uint32)
        overlap = np.zeros((number, len(chosen)), np.float32)
        for row, (normal, regions) in enumerate(zip(self._normal.read_once(), self._regions.read_once(), strict=True)):
            # float32 rounds counts beyond 16 million a level
            false_positives[row] = np.minimum(np.rint(normal.at_or_above(chosen)), counts[row, 0])
            overlap[row] = regions.at_or_above(chosen)
        return Evidence(
            paths=np.array(columns[0], dtype=np.str_),
            sha256=np.array(columns[1], dtype=np.str_),
            groups=np.array(columns[2], dtype=np.str_),
            labels=np.array(columns[3], dtype=np.int8),
            defect_types=np.array(columns[4], dtype=np.str_),
            scores=np.array(columns[5], dtype=np.float32),
            rejected=np.array(columns[6], dtype=np.bool_),
            thresholds=thresholds,
            false_positives=false_positives,
            normal_pixels=counts[:, 0],
            overlap=overlap,
            regions=counts[:, 1].astype(np.int32),
        )

    def _thresholds(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Level numbers where the pooled false positive rate passes a wanted rate, and their scores; both fall to 0."""
        from_the_top = np.cumsum(self._pooled[::-1])
        total = max(int(from_the_top[-1]), 1)
        position = np.searchsorted(from_the_top, _RATES * total, side="left")
        levels = LEVELS - 1 - np.minimum(position, LEVELS - 1)
        # With each the next one above: all that regions have down to it, before its normal pixels are counted.
        # Otherwise a gap in the normal pixels would be bridged by a straight line, whatever the regions do in it.
        above = np.minimum(levels + 1, LEVELS - 1)
        found = np.unique(np.concatenate([levels, above, [0]]))[::-1].astype(np.intp)
        scores = _level_scores()[found]
        distinct = np.append(np.diff(scores) < 0, True)  # next to 1 there are more levels than numbers
        return found[distinct], scores[distinct]


@functools.cache
def _level_scores() -> npt.NDArray[np.float64]:
    """The smallest score of each level: (LEVELS,), ascending."""
    return bin_thresholds()[:: 1 << _COARSER].copy()
