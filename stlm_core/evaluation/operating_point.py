"""The operating point: a threshold from held-back good images alone, with what it guarantees.

Split conformal prediction (Vovk et al.; Lei et al., JASA 2018): of n held-back good scores the k-th smallest, with
k = ceil((n + 1)(1 - budget)), is exceeded by a further good image with probability at most 1 - k / (n + 1) <= budget,
averaged over the draw of the held-back images and whatever the distribution, as long as held-back and later
images are exchangeable. For one given draw the true false-reject rate is distributed as Beta(n + 1 - k, k) (no
ties), which yields the confidence that this very threshold keeps the budget. Where the detector remembers the held-back
images, the bound of the mean holds as it is and the confidence nearly (decision 0027).

Several images of one part are not exchangeable with those of a part to come, the parts are. So every part weighs the
same, whatever the number of its images (hierarchical conformal prediction, Lee, Barber and Willett, 2023): with K parts
of n_j images each, an image weighs 1 / ((K + 1) n_j) and the part to come 1 / (K + 1), and the threshold is the
smallest held-back score for which what lies above it weighs no more than the budget. Where every part has one image,
that is the k-th smallest score.

With too few parts for the budget no held-back score is high enough: the largest of n is exceeded by one good part in
n + 1. The threshold is then the upper limit of a prediction interval for the log-odds of the next part's score, taken
as normally distributed, but at least the largest score, so the weaker guarantee of that score holds without the
assumption (decision 0026).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from stlm_core.errors import UserError

CLAMP = 1e-6  # raw scores are kept this far from 0 and 1 before the logit
_MEDIAN_GOOD_SCORE = 0.1  # where the calibration puts the median held-back good image
_SCALE_LIMITS = (0.1, 20.0)
_BISECTIONS = 50  # to the last digits of a float
_FEWEST_FOR_A_SPREAD = 3  # parts; of two, Student's factor for a budget of 5 % is nearly 8 deviations
_ABOVE_HALF = np.nextafter(np.float32(0.5), np.float32(1))

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OperatingPoint:
    """Threshold and calibration of a line's scores.

    ``raw_threshold`` in [0, 1]: an image is rejected when its raw score is above it. ``budget`` in (0, 1): the share
    of good parts that may be rejected. ``calibration_images``: held-back good images used, of ``calibration_parts``
    different parts. ``parts_above``: how many parts' worth of images may lie above the threshold, rounded up; ties with
    it count as above.
    ``guaranteed_false_reject``: upper bound of the expected false-reject rate; above ``budget`` when there are too few
    parts. ``confidence``: probability that the true rate of this threshold is within the budget; where parts have
    several images the probability is higher in simulation, the more the less alike they are, and so it is where the
    threshold is extrapolated. ``scale`` > 0: slope of the calibration in logit space.
    """

    raw_threshold: float
    budget: float
    calibration_images: int
    guaranteed_false_reject: float
    confidence: float
    scale: float
    calibration_parts: int
    parts_above: int

    @property
    def certified(self) -> bool:
        """Whether the guarantee is within the budget."""
        return self.guaranteed_false_reject <= self.budget

    @property
    def extrapolated(self) -> bool:
        """Whether the threshold may lie above all held-back scores, because these are too few for the budget."""
        return not self.certified and self.calibration_parts >= _FEWEST_FOR_A_SPREAD

    def calibrate(self, raw: npt.ArrayLike) -> FloatArray:
        """Calibrated scores: sigmoid((logit(raw) - logit(raw_threshold)) * scale), float32 in [0, 1], shape of ``raw``.

        Above 0.5 exactly where ``raw`` > ``raw_threshold``: rounding and the clamp of the logit never change a
        decision.
        """
        values = np.asarray(raw, dtype=np.float32)
        steepness = (_logit(values) - _logit(np.float32(self.raw_threshold))) * self.scale
        scores = (1 / (1 + np.exp(-steepness))).astype(np.float32)
        above = self.is_anomalous(values)
        return np.where(above, np.maximum(scores, _ABOVE_HALF), np.minimum(scores, np.float32(0.5)))

    def is_anomalous(self, raw: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Decision for raw scores in [0, 1]: above the threshold."""
        return np.asarray(raw, dtype=np.float32) > np.float32(self.raw_threshold)

    def false_reject_bound(self, confidence: float) -> float:
        """The false-reject rate that this very threshold does not exceed with probability ``confidence``, in [0, 1].

        The quantile of Beta(a + 1, K - a) with a of K parts above; with ties among the held-back scores, or several
        images a part, it errs on the safe side.
        """
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            enough = _confidence(self.calibration_parts, self.parts_above, middle) >= confidence
            low, high = (low, middle) if enough else (middle, high)
        return high

    def explain(self) -> str:
        """The operating point in plain words, for a report."""
        budget = f"{self.budget:.1%}"
        several = self.calibration_parts < self.calibration_images
        confidence = f"{'at least ' * several}{self.confidence:.0%}"
        source = f"{self.images()}, which weigh the same," if several else self.images()
        told = (
            f"The threshold comes from {source} that no weight was learned from and that are not tested on, "
            f"with a budget of {budget} of good parts that may be rejected. "
        )
        if self.certified:
            return told + (
                f"On average over such sets of images at most {self.guaranteed_false_reject:.1%} of good parts are "
                f"rejected; the chance that this very threshold keeps the budget is {confidence}."
            )
        if self.extrapolated:
            return told + (
                f"That is too few to certify the budget, so the threshold is where {budget} of good parts would lie if "
                "the log-odds of their scores were normally distributed, and not below the highest of these images. "
                f"Without that assumption it is only known that on average at most {self.guaranteed_false_reject:.1%} "
                f"of good parts are rejected, and the chance that this threshold keeps {budget} is at least "
                f"{self.confidence:.0%}. {self.needed()}"
            )
        return told + (
            f"That is too few to certify the budget: the guarantee is only that on average at most "
            f"{self.guaranteed_false_reject:.1%} of good parts are rejected, and the chance that this threshold keeps "
            f"{budget} is {confidence}. {self.needed()}"
        )

    def images(self) -> str:
        """The held-back images in words, with their parts where these are fewer."""
        n, parts = self.calibration_images, self.calibration_parts
        told = "1 held-back good image" if n == 1 else f"{n} held-back good images"
        return f"{told} of {parts} part{'s' * (parts != 1)}" if parts < n else told

    def needed(self) -> str:
        """How many held-back images it takes to certify the budget, as a sentence."""
        parts = " of as many different parts" if self.calibration_parts < self.calibration_images else ""
        return f"At least {images_needed(self.budget)} held-back good images{parts} are needed."

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; floats survive the round trip exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> OperatingPoint:
        """The inverse of :meth:`to_dict`.

        Raises:
            UserError: a value is missing, superfluous, not a number or out of range.
        """
        names = cls.__dataclass_fields__.keys()
        if not isinstance(values, dict) or set(values) != set(names):
            raise UserError(f"operating point: needs exactly the values {', '.join(names)}; run `stlm evaluate` again")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"operating point: `{name}` is not a number; run `stlm evaluate` again")
        if not (0 <= values["raw_threshold"] <= 1 and 0 < values["budget"] < 1 and values["scale"] > 0):
            raise UserError("operating point: a value is out of range; run `stlm evaluate` again")
        return cls(**values)


def fit_operating_point(good_scores: npt.ArrayLike, budget: float, parts: Sequence[str] = ()) -> OperatingPoint:
    """The operating point from held-back good images.

    ``good_scores`` (n,): raw image scores in [0, 1] of good images that no weight was learned from or chosen by, that
    are not tested on, and whose own part the detector does not remember as it scores them. ``budget`` in (0, 1).
    ``parts``: the physical part that each image shows, n names; an image without a name, "", shows a part of its own,
    and without ``parts`` all do.

    Where every part has one image, the threshold is the k-th smallest score, k = ceil((n + 1)(1 - budget)). When k > n
    it is extrapolated from at least 3 parts, else the largest, and the guarantee is then 1 / (n + 1), above the budget.
    Else see the module.

    The slope puts the median held-back score at a calibrated 0.1: (logit 0.5 - logit 0.1) over the logit distance of
    threshold and median, within [0.1, 20]; 1 when all scores are equal. It changes how scores read, never a decision.

    Raises:
        ValueError: no score, or a score or budget out of range, or another number of parts than of scores.
    """
    scores = np.asarray(good_scores, dtype=np.float32).ravel()
    n = len(scores)
    if n == 0:
        raise ValueError("an operating point needs at least one held-back good image")
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise ValueError("raw scores of held-back good images must be finite and in [0, 1]")
    if not 0 < budget < 1:
        raise ValueError(f"the false-reject budget must be in (0, 1), not {budget}")
    if parts and len(parts) != n:
        raise ValueError(f"{len(parts)} parts for {n} held-back good images")
    names: list[str | int] = [part or number for number, part in enumerate(parts or [""] * n)]
    descending = np.argsort(-scores, kind="stable")
    sizes = Counter(names)
    # Decimal as written: in binary, (19 + 1) * (1 - 0.05) may come out above 19 and ask for one image more.
    allowed, to_come = Fraction(str(budget)), Fraction(1, len(sizes) + 1)
    above, weight = 0, to_come
    while (more := weight + to_come / sizes[names[descending[above]]]) <= allowed:  # all of them would weigh 1
        above, weight = above + 1, more
    threshold = scores[descending[above]]
    # What lies above weighs more or less by whose it is, unless all parts weigh the same; only the budget bounds that.
    guaranteed = weight if len(set(sizes.values())) == 1 else max(allowed, to_come)
    parts_above = math.ceil(weight / to_come - 1)
    if guaranteed > allowed and len(sizes) >= _FEWEST_FOR_A_SPREAD:
        weights = np.array([1 / (len(sizes) * sizes[name]) for name in names])
        threshold = max(threshold, _prediction_limit(scores, weights, len(sizes), float(budget)))
    return OperatingPoint(
        raw_threshold=float(threshold),
        budget=float(budget),
        calibration_images=n,
        guaranteed_false_reject=float(guaranteed),
        confidence=_confidence(len(sizes), parts_above, float(budget)),
        scale=_slope(threshold, np.median(scores)),
        calibration_parts=len(sizes),
        parts_above=parts_above,
    )


def _prediction_limit(scores: FloatArray, weights: npt.NDArray[np.float64], parts: int, budget: float) -> np.float32:
    """What the score of a further part exceeds with probability ``budget`` if the log-odds are normally distributed.

    ``scores``, ``weights`` (n,): held-back scores and their shares in the mean, which sum up to 1. The classic
    prediction interval: mean + t * deviation * sqrt(1 + 1 / parts), Student's t of ``parts`` - 1 degrees of freedom.
    """
    log_odds = _logit(scores)
    mean = weights @ log_odds
    variance = weights @ (log_odds - mean) ** 2 * parts / (parts - 1)
    limit = mean + _student(1 - budget, parts - 1) * math.sqrt(variance * (1 + 1 / parts))
    return np.float32(min(1 / (1 + math.exp(-limit)), 1 - CLAMP))


def _student(probability: float, freedom: int) -> float:
    """The quantile of Student's t for ``probability`` in [0.5, 1) and whole degrees of freedom (Abramowitz and Stegun
    26.7.3 and 26.7.4, solved for the angle); SciPy is no part of the image that evaluates."""
    low, high = 0.0, math.pi / 2
    for _ in range(_BISECTIONS):
        angle = (low + high) / 2
        cosine = math.cos(angle)
        odd = freedom % 2
        term, total = (cosine, 0.0) if odd else (1.0, 0.0)
        for step in range(1 + odd, freedom, 2):
            total += term
            term *= cosine**2 * step / (step + 1)
        within = math.sin(angle) * total
        within = 2 / math.pi * (angle + within) if odd else within
        low, high = (angle, high) if (1 + within) / 2 < probability else (low, angle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def images_needed(budget: float) -> int:
    """How many held-back good images it takes to certify ``budget``: the smallest n with (n + 1) * budget >= 1."""
    return math.ceil(1 / Fraction(str(budget))) - 1


def _confidence(n: int, above: int, budget: float) -> float:
    """P[Beta(above + 1, n - above) <= budget], which for whole parameters is P[Binomial(n, budget) > above]."""
    fewer = sum(
        math.exp(
            math.lgamma(n + 1)
            - math.lgamma(j + 1)
            - math.lgamma(n - j + 1)
            + j * math.log(budget)
            + (n - j) * math.log1p(-budget)
        )
        for j in range(above + 1)
    )
    return min(1.0, max(0.0, 1.0 - fewer))


def _slope(threshold: np.float32, median: np.floating[Any]) -> float:
    distance = float(_logit(threshold) - _logit(median))
    wanted = math.log((1 - _MEDIAN_GOOD_SCORE) / _MEDIAN_GOOD_SCORE)
    if distance <= 0:
        return 1.0
    low, high = _SCALE_LIMITS
    return min(high, max(low, wanted / distance))


def _logit(raw: npt.ArrayLike) -> npt.NDArray[np.float64]:
    clamped = np.clip(np.asarray(raw, dtype=np.float64), CLAMP, 1 - CLAMP)
    return np.log(clamped / (1 - clamped))
