"""The promotion gate: a pure function of what was measured and what was asked for, with its reasons in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stlm_core.settings import PromoteConfig

COMPARED = ("image_auroc", "aupro_30", "recall_at_budget")
_ROUNDING = 1e-9  # 0.95 - 0.01 is not 0.94 in binary


@dataclass(frozen=True)
class Candidate:
    """One registered version as the gate sees it.

    ``metrics``: fractions of 1; what was not measured is absent. ``test_sha256``: digest of the test split that they
    were measured on, "" if there was none. ``parity_passed``: None if the version has no proof. ``size_mb``,
    ``latency_p95_ms``: None if not recorded. ``rolled_back``: why it was taken out of service before, or "".
    """

    version: int
    metrics: Mapping[str, float]
    test_sha256: str
    parity_passed: bool | None
    size_mb: float | None
    latency_p95_ms: float | None
    rolled_back: str = ""


@dataclass(frozen=True)
class Check:
    """One rule with its verdict and a sentence that states both figures."""

    passed: bool
    sentence: str


@dataclass(frozen=True)
class Decision:
    """What the rules say. ``warnings`` are what a person should know but no rule forbids."""

    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    @property
    def promote(self) -> bool:
        """Whether every rule holds."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that failed, or all of them if none did; then the warnings."""
        decisive = [check.sentence for check in self.checks if check.passed == self.promote]
        return (*decisive, *self.warnings)


def decide(challenger: Candidate, champion: Candidate | None, policy: PromoteConfig) -> Decision:
    """Judge a challenger by absolute floors and ceilings, its proof, and the champion if there is one.

    The comparison with the champion needs figures from the same test split; on different ones only the floors
    count, and a warning says so.
    """
    checks = [
        *_history(challenger),
        *_proof(challenger),
        *_floors(challenger, policy),
        *_ceilings(challenger, policy),
    ]
    warnings = []
    if champion is None:
        warnings.append("there is no champion to compare with")
    elif not challenger.test_sha256 or challenger.test_sha256 != champion.test_sha256:
        warnings.append(
            f"version {challenger.version} and champion {champion.version} were measured on different test images: "
            "compared with the floors only"
        )
    else:
        checks += _regressions(challenger, champion, policy.max_regression)
    return Decision(tuple(checks), tuple(warnings))


def _history(challenger: Candidate) -> Iterator[Check]:
    if challenger.rolled_back:
        yield Check(False, f"version {challenger.version} was rolled back before: {challenger.rolled_back}")


def _proof(challenger: Candidate) -> Iterator[Check]:
    if challenger.parity_passed is None:
        yield Check(False, "there is no parity proof of exactly this file")
    else:
        verdict = "passed" if challenger.parity_passed else "failed"
        yield Check(challenger.parity_passed, f"the parity proof {verdict}")


def _floors(challenger: Candidate, policy: PromoteConfig) -> Iterator[Check]:
    floors = {
        "image_auroc": policy.min_image_auroc,
        "aupro_30": policy.min_aupro_30,
        "recall_at_budget": policy.min_recall_at_budget,
    }
    for name, floor in floors.items():
        if floor is None:
            continue
        value = _measured(challenger, name)
        if value is None:
            yield Check(
                False, f"{name} was not measured; with promote.min_{name} null it is not asked for (it is {floor:.4f})"
            )
        else:
            passed = value >= floor
            yield Check(passed, f"{name} {value:.4f} is {'at least' if passed else 'below'} the floor {floor:.4f}")


def _ceilings(challenger: Candidate, policy: PromoteConfig) -> Iterator[Check]:
    ceilings = (
        ("the file's size", challenger.size_mb, policy.max_size_mb, "MB"),
        ("the 95th percentile of latency", challenger.latency_p95_ms, policy.max_latency_ms, "ms"),
    )
    for name, value, ceiling, unit in ceilings:
        if ceiling is None:
            continue
        if value is None or not math.isfinite(value):
            yield Check(False, f"{name} was not recorded (the ceiling is {ceiling:g} {unit})")
        else:
            passed = value <= ceiling
            verdict = "at most" if passed else "above"
            yield Check(passed, f"{name}, {value:.1f} {unit}, is {verdict} the ceiling {ceiling:g} {unit}")


def _regressions(challenger: Candidate, champion: Candidate, margin: float) -> Iterator[Check]:
    for name in COMPARED:
        old, new = _measured(champion, name), _measured(challenger, name)
        if old is None:
            continue
        if new is None:
            yield Check(False, f"{name} was not measured, champion {champion.version} has {old:.4f}")
        else:
            passed = new >= old - margin - _ROUNDING
            verdict = "within" if passed else "more than"
            yield Check(
                passed,
                f"{name} {new:.4f} against {old:.4f} of champion {champion.version}: "
                f"{'no loss' if new >= old else f'a loss of {old - new:.4f}, {verdict} the margin {margin:.4f}'}",
            )


def _measured(candidate: Candidate, name: str) -> float | None:
    value = candidate.metrics.get(name)
    return None if value is None or not math.isfinite(value) else value
