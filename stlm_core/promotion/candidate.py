"""What the gate is given of a version, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stlm_core.evaluation.evidence import Evidence

_MARKUP = {mark: f"\\{mark}" for mark in "\\|`*_[]#!"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
Verdict = Literal["pass", "fail", "unsure"]
Outcome = Literal["promote", "keep", "needs-human"]


@dataclass(frozen=True)
class Candidate:
    """One registered version as the gate sees it.

    ``metrics``: fractions of 1; what was not measured is absent. ``test_sha256``: digest of the test split that they
    were measured on, "" if there was none. ``parity_passed``: None if the version has no proof. ``size_mb``,
    ``latency_p95_ms``: None if not recorded. ``rolled_back``: why it was taken out of service before, or "".
    ``false_reject_budget``: None if not recorded. ``data_license``: "" or "unknown" if not known. ``non_commercial``:
    what forbids commercial use, "" if nothing does. ``evidence``: verdicts on the test images; None if it left none.
    ``unsigned``: why a signature that is asked for does not hold, or "".
    """

    version: int
    metrics: Mapping[str, float]
    test_sha256: str
    parity_passed: bool | None
    size_mb: float | None
    latency_p95_ms: float | None
    rolled_back: str = ""
    false_reject_budget: float | None = None
    data_license: str = ""
    non_commercial: str = ""
    evidence: Evidence | None = None
    unsigned: str = ""


@dataclass(frozen=True)
class Check:
    """One rule: its name, its verdict, and a sentence that states the figures, which ``numbers`` repeats."""

    name: str
    verdict: Verdict
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """What the rules say. ``warnings`` are what a person should know but no rule forbids. ``undecided``: what follows
    from a rule that cannot be decided.
    """

    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    undecided: Literal["person", "keep"] = "person"

    @property
    def outcome(self) -> Outcome:
        """A rule that fails keeps the champion; failing that, one that cannot be decided asks for a person."""
        verdicts = {check.verdict for check in self.checks}
        if "fail" in verdicts or ("unsure" in verdicts and self.undecided == "keep"):
            return "keep"
        return "needs-human" if "unsure" in verdicts else "promote"

    @property
    def promote(self) -> bool:
        """Whether every rule holds."""
        return self.outcome == "promote"

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that decided: those that failed, or could not be decided, or all; then the warnings."""
        decisive = {"keep": ("fail", "unsure"), "needs-human": ("unsure",), "promote": ("pass",)}[self.outcome]
        ordered = [check.sentence for verdict in decisive for check in self.checks if check.verdict == verdict]
        return (*ordered, *self.warnings)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: outcome, checks with their numbers (null for one that is not finite), warnings."""
        checks = [
            {
                "name": each.name,
                "verdict": each.verdict,
                "sentence": each.sentence,
                "numbers": {name: value if math.isfinite(value) else None for name, value in each.numbers.items()},
            }
            for each in self.checks
        ]
        return {"outcome": self.outcome, "checks": checks, "warnings": list(self.warnings)}


def decision_markdown(decision: Decision, title: str) -> str:
    """The decision as a table, what decided first."""
    order = {"fail": 0, "unsure": 1, "pass": 2}
    words = {"promote": "Promote", "keep": "Keep the champion", "needs-human": "A person has to decide"}
    lines = [f"# {_cell(title)}", "", f"**{words[decision.outcome]}**", "", "| verdict | rule | why |", "|---|---|---|"]
    for check in sorted(decision.checks, key=lambda each: order[each.verdict]):
        lines.append(f"| {check.verdict} | {_cell(check.name)} | {_cell(check.sentence)} |")
    if decision.warnings:
        lines += ["", *(f"- {_cell(warning)}" for warning in decision.warnings)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Names of defects and reasons are anybody's text: nothing of it is markup."""
    return "".join(_MARKUP.get(character, character) for character in " ".join(text.split()))
