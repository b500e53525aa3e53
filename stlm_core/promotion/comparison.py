"""Challenger against champion on the test images that both have seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import comb

import numpy as np

from stlm_core.evaluation.evidence import Evidence, StrArray
from stlm_core.evaluation.predictions import GOOD
from stlm_core.promote_settings import PromoteConfig
from stlm_core.promotion.bootstrap import Difference, paired_differences
from stlm_core.promotion.candidate import Check

TITLES = {
    "image_auroc": "image AUROC",
    "aupro_30": "AUPRO",
    "recall_at_budget": "recall at the budget",
    "false_reject_rate": "the false-reject rate",
}
RANKINGS = ("image_auroc", "aupro_30")
_ROUNDING = 1e-9  # 0.95 - 0.01 is not 0.94 in binary
_CHANCE = 0.05


@dataclass(frozen=True)
class Common:
    """The images that two versions were both tested on, in one order. ``warnings``: what was left out, and why.
    ``defects_known``: whether either of them was tested on any defective image.
    """

    challenger: Evidence
    champion: Evidence
    warnings: tuple[str, ...]
    defects_known: bool

    @property
    def good(self) -> int:
        """How many of them are good."""
        return int((self.challenger.labels == 0).sum())

    @property
    def anomalous(self) -> int:
        """How many of them are defective."""
        return int((self.challenger.labels == 1).sum())


def common_images(challenger: Evidence, champion: Evidence) -> Common:
    """Pair two evaluations by the hash of the image file; the same image twice counts once.

    An image that has another label now is left out: which of the two is right is not for a comparison to say. Swapping
    the two swaps the result.
    """
    sides = []
    for evidence in (challenger, champion):
        known = np.flatnonzero(evidence.sha256 != "")
        _, first = np.unique(evidence.sha256[known], return_index=True)
        sides.append(evidence.take(known[first]))
    _, of_new, of_old = np.intersect1d(sides[0].sha256, sides[1].sha256, assume_unique=True, return_indices=True)
    new, old = sides[0].take(of_new), sides[1].take(of_old)
    same = new.labels == old.labels
    warnings = []
    if not same.all():
        warnings.append(f"{int((~same).sum())} test images have another label than at the champion's test: left out")
    if len(new) < len(sides[0]):
        warnings.append(
            f"{len(new)} of {len(sides[0])} test images were among the champion's, too: only these are compared"
        )
    kept = np.flatnonzero(same)
    new, old = new.take(kept), old.take(kept)
    # Type and part as one of the two has them, whichever is asked first.
    shared = {
        "defect_types": np.where(new.labels == 0, GOOD, _larger(new.defect_types, old.defect_types)),
        "groups": _larger(new.groups, old.groups),
    }
    defects_known = any(side.labels.any() for side in sides)
    return Common(replace(new, **shared), replace(old, **shared), tuple(warnings), defects_known)


def _larger(left: StrArray, right: StrArray) -> StrArray:
    return np.where(left > right, left, right)


def compare(common: Common, champion: int, policy: PromoteConfig) -> Iterator[Check]:
    """Non-inferiority, defect types and the meaning of the score; ``champion`` is its version number."""
    if not enough(common, policy):
        yield _too_few(common, policy)
        return
    differences = paired_differences(common.challenger, common.champion, confidence=policy.confidence)
    for difference in differences.values():
        yield _non_inferiority(difference, champion, policy)
    yield from _defect_types(common, champion, policy)
    if common.good:
        yield _score_shift(common, champion, policy.max_score_shift)


def enough(common: Common, policy: PromoteConfig) -> bool:
    """Whether the common images can say anything. A line without any defects is compared by its good images."""
    defects = common.anomalous >= policy.min_common_defects or not common.defects_known
    return common.good >= policy.min_common_good and defects


def _too_few(common: Common, policy: PromoteConfig) -> Check:
    numbers = {"common_good": float(common.good), "common_defects": float(common.anomalous)}
    told = (
        f"only {common.good} good and {common.anomalous} defective test images have been seen by both versions "
        f"(promote.min_common_good is {policy.min_common_good}, min_common_defects {policy.min_common_defects}); "
        "run `stlm promote` where the test images are, and the champion is tested on them"
    )
    return Check("common test images", "unsure", told, numbers)


def _non_inferiority(difference: Difference, champion: int, policy: PromoteConfig) -> Check:
    margin = policy.max_regression if difference.name in RANKINGS else policy.max_rate_regression
    title, new, old = TITLES[difference.name], difference.challenger, difference.champion
    numbers = {"challenger": new, "champion": old, "low": difference.low, "high": difference.high, "margin": margin}
    told = f"{title} {new:.4f} against {old:.4f} of champion {champion}: {_change(difference.value)}"
    between = f"{_signed(difference.low)} to {_signed(difference.high)} with {policy.confidence:.0%} confidence each"
    if difference.low >= -margin - _ROUNDING:
        return Check(title, "pass", f"{told} ({between}), within the margin {margin:.4f}", numbers)
    if difference.high < -margin - _ROUNDING:
        return Check(title, "fail", f"{told} ({between}), beyond the margin {margin:.4f}", numbers)
    return Check(title, "unsure", f"{told} ({between}): too uncertain for the margin {margin:.4f}", numbers)


def _change(value: float) -> str:
    if abs(value) < _ROUNDING:
        return "no difference"
    return f"{'better' if value > 0 else 'worse'} by {abs(value):.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _defect_types(common: Common, champion: int, policy: PromoteConfig) -> Iterator[Check]:
    """No defect that is found today may be lost, even where the mean over all of them is better."""
    types = [str(name) for name in np.unique(common.challenger.defect_types) if name != GOOD]
    kept = []
    for name in types:
        own = common.challenger.defect_types == name
        now, before = common.challenger.rejected[own], common.champion.rejected[own]
        lost, gained, images = int((before & ~now).sum()), int((now & ~before).sum()), int(own.sum())
        net = lost - gained
        if net <= 0 or net / images <= policy.max_type_regression + _ROUNDING:
            kept.append(name)
            continue
        chance = sign_test(lost, gained)
        numbers = {"images": images, "lost": lost, "gained": gained, "p": chance}
        told = (
            f"defect type {name}: of {images} champion {champion} finds {int(before.sum())}, this version "
            f"{int(now.sum())} ({lost} lost, {gained} gained"
        )
        if chance < _CHANCE / len(types):  # Bonferroni: among many types, one is always unlucky
            yield Check("defect types", "fail", f"{told}; p = {chance:.3f}: not chance)", numbers)
        else:
            yield Check("defect types", "unsure", f"{told}; p = {chance:.3f}: it could be chance)", numbers)
    if types and len(kept) == len(types):
        yield Check("defect types", "pass", f"none of {len(types)} defect types is found less often", {})


def sign_test(lost: int, gained: int) -> float:
    """The chance of ``lost`` losses or more among the images that changed sides, were both sides as likely.

    Exact and one-sided (McNemar 1947).
    """
    changed = lost + gained
    return sum(comb(changed, each) for each in range(lost, changed + 1)) / 2**changed


def _score_shift(common: Common, champion: int, limit: float) -> Check:
    """Operators know what score a good part has: 0.5 is the threshold, and calibration puts the median near 0.1."""
    good = common.challenger.labels == 0
    new, old = common.challenger.scores[good], common.champion.scores[good]
    shift = float(np.median(new.astype(np.float64) - old))
    numbers = {"shift": shift, "challenger": float(np.median(new)), "champion": float(np.median(old)), "limit": limit}
    told = (
        f"the score of good parts: median {numbers['challenger']:.3f} against {numbers['champion']:.3f} of champion "
        f"{champion}, of the same part {shift:+.3f} in the median"
    )
    if abs(shift) <= limit:
        return Check("score of good parts", "pass", f"{told}, within {limit:.2f}", numbers)
    return Check("score of good parts", "unsure", f"{told}, more than {limit:.2f}: operators will see it", numbers)
