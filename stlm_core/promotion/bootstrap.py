"""How far apart two detectors are on the same images, and how sure one can be of it: a paired bootstrap.

Both detectors saw the same images, so an image that is hard for both says little about their difference: figures are
compared within each resampling (Efron and Tibshirani 1993, section 8; paired as in Koehn, EMNLP 2004). Drawn with
replacement within each defect type (good is one), so that every test set drawn has as many parts of each; images of one
physical part are drawn together, because they are not independent. Types of which there are hardly any parts are drawn
as one: a type with a single part would be the same in every test set drawn, as if there were no doubt about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.predictions import GOOD

RESAMPLES = 2000
_SEED = 20_240_219  # fixed: the same evidence gives the same decision
_FEWEST_PARTS = 5  # of a type that is drawn by itself
_CELLS = 1 << 24  # of one array of resamplings x thresholds; 128 MB

FloatArray = npt.NDArray[np.float64]

HIGHER_IS_BETTER = {"image_auroc": True, "aupro_30": True, "recall_at_budget": True, "false_reject_rate": False}
"""The figures that are compared, fractions of 1."""


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion, with the sign turned where less is better: above 0 the challenger is better.

    ``challenger``, ``champion``: the figures on the common images. ``low``, ``high``: the ends of the interval.
    """

    name: str
    challenger: float
    champion: float
    value: float
    low: float
    high: float


def paired_differences(
    challenger: Evidence, champion: Evidence, *, confidence: float, resamples: int = RESAMPLES
) -> dict[str, Difference]:
    """Intervals of the differences; a figure that is not defined on these images is absent.

    Swapping the two negates every interval exactly.

    Args:
        challenger, champion: the same N images in the same order.
        confidence: that the true difference is above ``low``, and that it is below ``high``; each end for itself.

    Raises:
        ValueError: not the same images.
    """
    if not np.array_equal(challenger.sha256, champion.sha256) or not np.array_equal(challenger.labels, champion.labels):
        raise ValueError("a paired comparison needs the same images in the same order")
    ones = np.ones((1, len(challenger)))
    points = [_figures(evidence, ones) for evidence in (challenger, champion)]
    per_round = max(1, _CELLS // max(len(challenger), challenger.thresholds.size, champion.thresholds.size, 1))
    rng = np.random.default_rng(_SEED)
    drawn: dict[str, list[FloatArray]] = {name: [] for name in HIGHER_IS_BETTER}
    units = _units(champion)
    for first in range(0, resamples, per_round):
        weights = _draw(rng, units, len(challenger), min(per_round, resamples - first))
        new, old = (_figures(evidence, weights) for evidence in (challenger, champion))
        for name in new.keys() & old.keys():
            drawn[name].append(new[name] - old[name])
    found = {}
    for name, better in HIGHER_IS_BETTER.items():
        if not drawn[name]:
            continue
        sign = 1.0 if better else -1.0
        values = sign * np.concatenate(drawn[name])
        low, high = _ends(values[np.isfinite(values)], confidence)
        new_value, old_value = (float(point[name][0]) for point in points)
        found[name] = Difference(name, new_value, old_value, sign * (new_value - old_value), low, high)
    return found


def weighted_auroc(labels: npt.NDArray[np.int8], scores: npt.NDArray[np.float32], weights: FloatArray) -> FloatArray:
    """Area under the ROC curve for each weighting of the images: (N,), (N,), (B, N) -> (B,) in [0, 1].

    The probability that a defective image, drawn by weight, scores above a good one, ties counting half (Mann-Whitney).
    """
    good, anomalous = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    good = good[np.argsort(scores[good], kind="stable")]
    below = np.zeros((len(weights), len(good) + 1))
    np.cumsum(weights[:, good], axis=1, out=below[:, 1:])
    left, right = (np.searchsorted(scores[good], scores[anomalous], side=side) for side in ("left", "right"))
    wins = (weights[:, anomalous] * (below[:, left] + below[:, right])).sum(axis=1) / 2
    area: FloatArray = wins / (weights[:, anomalous].sum(axis=1) * below[:, -1])
    return area


def _figures(evidence: Evidence, weights: FloatArray) -> Mapping[str, FloatArray]:
    """Each figure for each weighting, those that are defined on the images."""
    good, anomalous = evidence.labels == 0, evidence.labels == 1
    rejected = evidence.rejected.astype(np.float64)
    figures = {}
    if good.any():
        figures["false_reject_rate"] = weights[:, good] @ rejected[good] / weights[:, good].sum(axis=1)
    if anomalous.any():
        figures["recall_at_budget"] = weights[:, anomalous] @ rejected[anomalous] / weights[:, anomalous].sum(axis=1)
    if good.any() and anomalous.any():
        figures["image_auroc"] = weighted_auroc(evidence.labels, evidence.scores, weights)
    if evidence.regions.any() and evidence.normal_pixels.any():
        figures["aupro_30"] = evidence.aupro(weights)
    return figures


def _units(evidence: Evidence) -> list[list[npt.NDArray[np.intp]]]:
    """What is drawn: per stratum the physical parts, each with its images; an image without one is its own part."""
    types: dict[str, dict[tuple[str, int], list[int]]] = {}
    for image, (defect, group) in enumerate(zip(evidence.defect_types, evidence.groups, strict=True)):
        part = (str(group), -1) if group else ("", image)
        types.setdefault(str(defect), {}).setdefault(part, []).append(image)
    strata, pooled = [types.pop(GOOD)] if GOOD in types else [], dict[tuple[str, int], list[int]]()
    for _, parts in sorted(types.items(), key=lambda each: (len(each[1]), each[0])):
        if len(parts) >= _FEWEST_PARTS and (not pooled or len(pooled) >= _FEWEST_PARTS):
            strata.append(parts)
            continue
        for part, images in parts.items():
            pooled.setdefault(part, []).extend(images)
    if pooled:
        strata.append(pooled)
    return [[np.array(images, dtype=np.intp) for images in parts.values()] for parts in strata]


def _draw(rng: np.random.Generator, units: list[list[npt.NDArray[np.intp]]], images: int, number: int) -> FloatArray:
    """How often each image is in each of ``number`` test sets drawn: (number, images)."""
    weights = np.zeros((number, images))
    for parts in units:
        times = rng.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=number)
        of_image = np.concatenate([np.full(len(part), index) for index, part in enumerate(parts)])
        weights[:, np.concatenate(parts)] = times[:, of_image]
    return weights


def _ends(values: FloatArray, confidence: float) -> tuple[float, float]:
    """The two percentiles, by rank from either end, so that negated values give the negated ends."""
    if not len(values):
        return -np.inf, np.inf
    ranked = np.sort(values)
    rank = min(int((1 - confidence) * len(ranked)), (len(ranked) - 1) // 2)
    return float(ranked[rank]), float(ranked[-1 - rank])
