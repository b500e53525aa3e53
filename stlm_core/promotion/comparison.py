"""Challenger against champion on the test images that both have seen."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.predictions import GOOD
from stlm_core.promote_settings import PromoteConfig
from stlm_core.promotion.bootstrap import Difference, paired_differences
from stlm_core.promotion.candidate import Check
from stlm_core.promotion.pairing import Common

TITLES = {
    "image_auroc": "image AUROC",
    "aupro_30": "AUPRO",
    "recall_at_budget": "recall at the budget",
    "false_reject_rate": "the false-reject rate",
}
RANKINGS = ("image_auroc", "aupro_30")
_ROUNDING = 1e-9  # 0.95 - 0.01 is not 0.94 in binary
_CHANCE = 0.05


def compare(common: Common, champion: int, policy: PromoteConfig) -> Iterator[Check]:
    """Non-inferiority, defect types and the meaning of the score; ``champion`` is its version number."""
    if not common.enough(policy):
        yield _too_few(common, policy)
        return
    differences = paired_differences(common.challenger, common.champion, confidence=policy.confidence)
    for difference in differences.values():
        yield _non_inferiority(difference, champion, policy)
    yield from _defect_types(common, champion, policy)
    if common.good:
        yield _score_shift(common, champion, policy.max_score_shift)


def _too_few(common: Common, policy: PromoteConfig) -> Check:
    numbers = {"common_good": float(common.good), "common_defects": float(common.anomalous)}
    once = ", counting each physical part once" if (common.challenger.groups != "").any() else ""
    remedy = (
        "these are all that the line has; more come in by `stlm lines update --extend-test`"
        if common.complete
        else "run `stlm promote` where the test images are, and the champion is tested on them"
    )
    told = (
        f"only {common.good} good and {common.anomalous} defective test images have been seen by both versions{once} "
        f"(promote.min_common_good is {policy.min_common_good}, min_common_defects {policy.min_common_defects}); "
        f"{remedy}"
    )
    return Check("common test images", "unsure", told, numbers)


def _non_inferiority(difference: Difference, champion: int, policy: PromoteConfig) -> Check:
    margin = margin_of(difference.name, policy)
    title, new, old = TITLES[difference.name], difference.challenger, difference.champion
    numbers = {"challenger": new, "champion": old, "low": difference.low, "high": difference.high, "margin": margin}
    told = f"{title} {new:.4f} against {old:.4f} of champion {champion}: {_change(difference.value)}"
    between = f"{_signed(difference.low)} to {_signed(difference.high)} with {policy.confidence:.0%} confidence each"
    if difference.low >= -margin - _ROUNDING:
        return Check(title, "pass", f"{told} ({between}), within the margin {margin:.4f}", numbers)
    if difference.high < -margin - _ROUNDING:
        return Check(title, "fail", f"{told} ({between}), beyond the margin {margin:.4f}", numbers)
    return Check(title, "unsure", f"{told} ({between}): too uncertain for the margin {margin:.4f}", numbers)


def margin_of(name: str, policy: PromoteConfig) -> float:
    """What may be lost of a figure: rankings and rates have margins of their own."""
    return policy.max_regression if name in RANKINGS else policy.max_rate_regression


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
        chance = sign_test(*_parts_that_changed(before, now, common.challenger.groups[own]))
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


def _parts_that_changed(
    before: npt.NDArray[np.bool_], now: npt.NDArray[np.bool_], groups: npt.NDArray[np.str_]
) -> tuple[int, int]:
    """How many physical parts lost more images than they gained, and the converse: images of one part are one case."""
    own = np.array([group or f"/{image}" for image, group in enumerate(groups.tolist())])
    _, part = np.unique(own, return_inverse=True)
    net = np.bincount(part, now.astype(np.float64) - before)
    return int((net < 0).sum()), int((net > 0).sum())


def sign_test(lost: int, gained: int) -> float:
    """The chance of ``lost`` losses or more among the parts that changed sides, were both sides as likely.

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
