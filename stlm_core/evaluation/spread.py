"""How far the figures of an evaluation may be off by chance: a stratified bootstrap over the test images (Efron, 1979).

Test sets are drawn with replacement, good and defective images apart, as many as there are; all images of one physical
part come together. Each figure's interval holds the middle 95 % of its values over these sets. What that cannot show:
the spread over training seeds, and whatever the test images have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.metrics import ScoreCounts, average_precision, ranking_auroc
from stlm_core.seeding import derive_rng

RESAMPLES = 2000
_LOW, _HIGH = 2.5, 97.5  # percentiles
_CELLS = 1 << 21  # of one array of drawn test sets by images; 16 MB

Interval = tuple[float, float]
FloatArray = npt.NDArray[np.float64]


def image_spread(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    parts: Sequence[str],
    *,
    seed: str,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Intervals of ``image_auroc`` and ``image_ap``. The same arguments give the same intervals.

    Args:
        labels: (N,): 0 good, 1 anomalous.
        scores: (N,): finite, larger is more anomalous.
        parts: (N,): the physical part that an image shows; "" for one of its own.
        seed: what the draws depend on.
        resamples: how many test sets are drawn.

    Returns:
        Name to (low, high). A figure is absent where the images say nothing of its spread: a class with fewer than two
        parts, or the same value whatever is drawn.
    """
    truth = np.asarray(labels, dtype=np.int64)
    levels, level = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)
    nothing = np.zeros(len(levels))
    drawn: dict[str, list[float]] = {"image_auroc": [], "image_ap": []}
    for weights in _draws(truth, parts, seed, resamples):
        for weight in weights:
            good, anomalous = (
                np.bincount(level, weight * (truth == label), len(levels)).astype(np.float64) for label in (0, 1)
            )
            counts = ScoreCounts(levels, anomalous, good, nothing, regions=0)
            for name, value in (("image_auroc", ranking_auroc(counts)), ("image_ap", average_precision(counts))):
                if value is not None:
                    drawn[name].append(value)
    return _intervals({name: np.array(values) for name, values in drawn.items()})


def overlap_spread(evidence: Evidence, *, seed: str, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """The interval of ``aupro_30``, absent where it has none; see :func:`image_spread`."""
    if not (evidence.regions.any() and evidence.normal_pixels.any()):
        return {}
    parts = [str(part) for part in evidence.groups]
    labels = evidence.labels.astype(np.int64)
    drawn = [evidence.aupro(weights) for weights in _draws(labels, parts, seed, resamples)]
    return _intervals({"aupro_30": np.concatenate(drawn)}) if drawn else {}


def _intervals(drawn: dict[str, FloatArray]) -> dict[str, Interval]:
    """The middle of the drawn values, where there are some and they differ."""
    found = {}
    for name, values in drawn.items():
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (_LOW, _HIGH)) if len(known) else (0.0, 0.0)
        if low < high:
            found[name] = (float(low), float(high))
    return found


def _draws(labels: npt.NDArray[np.int64], parts: Sequence[str], seed: str, resamples: int) -> Iterator[FloatArray]:
    """How often each image is in each test set drawn, (B, N), some sets at a time; none where a class has one part."""
    strata = []
    for label in (0, 1):
        images = np.flatnonzero(labels == label)
        part = _numbers(parts, images)
        if len(set(part.tolist())) < 2:
            return
        strata.append((images, part, int(part.max()) + 1))
    rng = derive_rng("spread", seed)
    at_once = max(1, _CELLS // len(labels))
    for first in range(0, resamples, at_once):
        weights = np.zeros((min(at_once, resamples - first), len(labels)))
        for images, part, count in strata:
            weights[:, images] = rng.multinomial(count, np.full(count, 1 / count), size=len(weights))[:, part]
        yield weights


def _numbers(names: Sequence[str], images: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """A number for the part that each of ``images`` shows, from 0 without gaps."""
    keys = [(names[image], -1) if names[image] else ("", image) for image in images.tolist()]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.intp)
