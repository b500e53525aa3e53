"""The promotion gate: a pure function of what was measured and what was asked for, with its reasons in words.

Three answers. A rule that fails keeps the champion. A rule that the data at hand cannot decide, such as a loss that may
be chance, asks for a person: a small test set must neither stop every retraining nor wave everything through. Only when
every rule holds is a challenger promoted. See docs/decisions/0014-promotion-policy.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from stlm_core.evaluation.intervals import binomial_low
from stlm_core.promote_settings import PromoteConfig
from stlm_core.promotion.candidate import Candidate, Check, Decision
from stlm_core.promotion.comparison import TITLES, compare, margin_of
from stlm_core.promotion.pairing import Common, common_images, distinct

COMPARED = ("image_auroc", "aupro_30", "recall_at_budget")
_ROUNDING = 1e-9
_UNKNOWN_LICENSES = ("", "unknown")


def decide(challenger: Candidate, champion: Candidate | None, policy: PromoteConfig) -> Decision:
    """Judge a challenger by absolute floors and ceilings, its proof, and the champion if there is one."""
    checks = [
        *_history(challenger),
        *_proof(challenger),
        *_license(challenger, policy),
        *_floors(challenger, policy),
        *_ceilings(challenger, policy),
    ]
    warnings = []
    false_rejects = _false_rejects(challenger, policy)
    if isinstance(false_rejects, Check):
        checks.append(false_rejects)
    elif false_rejects:
        warnings.append(false_rejects)
    if champion is None:
        warnings.append("there is no champion to compare with")
    elif challenger.evidence is not None and champion.evidence is not None:
        common = common_images(challenger.evidence, champion.evidence)
        checks += compare(common, champion.version, policy)
        warnings += [*common.warnings, *_without_defects(common)]
    else:
        checks += _points(challenger, champion, policy)
    return Decision(tuple(checks), tuple(warnings), policy.undecided)


def _history(challenger: Candidate) -> Iterator[Check]:
    if challenger.rolled_back:
        yield Check("history", "fail", f"version {challenger.version} was rolled back before: {challenger.rolled_back}")


def _proof(challenger: Candidate) -> Iterator[Check]:
    if challenger.parity_passed is None:
        yield Check("parity", "fail", "there is no parity proof of exactly this file")
    elif challenger.parity_passed:
        yield Check("parity", "pass", "the parity proof passed")
    else:
        yield Check("parity", "fail", "the parity proof failed")
    if challenger.unsigned:
        yield Check("signature", "fail", challenger.unsigned)


def _license(challenger: Candidate, policy: PromoteConfig) -> Iterator[Check]:
    if not policy.commercial:
        return
    if challenger.non_commercial:
        told = f"commercial use is forbidden (promote.commercial): {challenger.non_commercial}"
        yield Check("licence", "fail", told)
    elif challenger.data_license.strip().lower() in _UNKNOWN_LICENSES:
        yield Check("licence", "fail", "the licence of the images is unknown; set data.license (promote.commercial)")
    else:
        yield Check("licence", "pass", f"the licence {challenger.data_license} allows commercial use")


def _floors(challenger: Candidate, policy: PromoteConfig) -> Iterator[Check]:
    floors = {
        "image_auroc": policy.min_image_auroc,
        "aupro_30": policy.min_aupro_30,
        "recall_at_budget": policy.min_recall_at_budget,
    }
    for name, floor in floors.items():
        if floor is None:
            continue
        title, value = TITLES[name], measured(challenger, name)
        if value is None:
            told = f"{title} was not measured; with promote.min_{name} null it is not asked for (it is {floor:.4f})"
            yield Check(f"floor of {title}", "fail", told, {"floor": floor})
        else:
            verdict = "at least" if value >= floor else "below"
            yield Check(
                f"floor of {title}",
                "pass" if value >= floor else "fail",
                f"{title} {value:.4f} is {verdict} the floor {floor:.4f}",
                {"value": value, "floor": floor},
            )


def _ceilings(challenger: Candidate, policy: PromoteConfig) -> Iterator[Check]:
    ceilings = (
        ("the file's size", challenger.size_mb, policy.max_size_mb, "MB"),
        ("the 95th percentile of latency", challenger.latency_p95_ms, policy.max_latency_ms, "ms"),
    )
    for name, value, ceiling, unit in ceilings:
        if ceiling is None:
            continue
        if value is None or not math.isfinite(value):
            yield Check(name, "fail", f"{name} was not recorded (the ceiling is {ceiling:g} {unit})")
        else:
            verdict = "at most" if value <= ceiling else "above"
            yield Check(
                name,
                "pass" if value <= ceiling else "fail",
                f"{name}, {value:.1f} {unit}, is {verdict} the ceiling {ceiling:g} {unit}",
                {"value": value, "ceiling": ceiling},
            )


def _false_rejects(challenger: Candidate, policy: PromoteConfig) -> Check | str:
    """Whether the threshold keeps its promise on good test images; a sentence where there is only a suspicion."""
    budget = challenger.false_reject_budget
    if challenger.evidence is None or budget is None:
        return ""
    evidence = distinct(challenger.evidence)
    good = int((evidence.labels == 0).sum())
    if not good:
        return ""
    rejected = int(evidence.rejected[evidence.labels == 0].sum())
    low = binomial_low(rejected, good, policy.confidence)
    numbers = {"rejected": float(rejected), "good": float(good), "low": low, "budget": budget}
    told = f"{rejected} of {good} good test images are rejected"
    if low > budget:
        told += f", at least {low:.1%} with {policy.confidence:.0%} confidence; the budget is {budget:.1%}"
        return Check("false rejects", "unsure", told, numbers)
    if rejected / good > budget:
        return f"{told}, above the budget {budget:.1%}; it may be chance"
    return Check("false rejects", "pass", f"{told}, within the budget {budget:.1%}", numbers)


def _without_defects(common: Common) -> Iterator[str]:
    if not common.defects_known:
        yield "there are no defective test images: only good parts were compared"


def _points(challenger: Candidate, champion: Candidate, policy: PromoteConfig) -> Iterator[Check]:
    """Without verdicts on single images: the figures alone, which cannot tell a difference from chance."""
    if not challenger.test_sha256 or challenger.test_sha256 != champion.test_sha256:
        yield Check(
            "common test images",
            "unsure",
            f"version {challenger.version} and champion {champion.version} were measured on different test images, and "
            "their verdicts on single images are not there to compare",
        )
        return
    before = {name: value for name in COMPARED if (value := measured(champion, name)) is not None}
    if not before:
        told = f"champion {champion.version} has neither figures nor verdicts on single images to compare with"
        yield Check("figures to compare", "unsure", told)
    for name, old in before.items():
        title, new, margin = TITLES[name], measured(challenger, name), margin_of(name, policy)
        if new is None:
            yield Check(title, "fail", f"{title} was not measured, champion {champion.version} has {old:.4f}")
            continue
        told = f"{title} {new:.4f} against {old:.4f} of champion {champion.version}"
        numbers = {"challenger": new, "champion": old, "margin": margin}
        if new >= old - _ROUNDING:
            yield Check(title, "pass", f"{told}: no loss", numbers)
        elif new >= old - margin - _ROUNDING:
            told += f": a loss of {old - new:.4f}; without the champion's verdicts on single images it may be chance"
            yield Check(title, "unsure", told, numbers)
        else:
            yield Check(title, "fail", f"{told}: a loss of {old - new:.4f}, more than the margin {margin:.4f}", numbers)


def measured(candidate: Candidate, name: str) -> float | None:
    """A metric that is a number."""
    value = candidate.metrics.get(name)
    return None if value is None or not math.isfinite(value) else value
