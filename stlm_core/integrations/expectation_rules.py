"""The suite: what a line's settings ask of its images, each rule with its words, severity and expectations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from stlm_core.config import LineConfig
from stlm_core.data.drift import Drift, describe
from stlm_core.data.inspection import name_files
from stlm_core.data.manifest import SPLITS
from stlm_core.integrations.expectation_table import Finding, Findings

Level = Literal["fail", "warn", "info"]
_NAMES = {"saturated": "share of saturated pixels"}
_NAMED: dict[Level, int] = {"fail": 10, "warn": 3, "info": 3}  # images in a reason


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule: what it asks for, in words, how much it matters, whether it holds, and if not why and for which images.

    ``breach`` says it in a few words, ``reason`` names the first images, ``findings`` has them all.
    ``level``: "fail" stops the line, "warn" is said and passes, "info" is only listed in the reports.
    """

    rule: str
    asks: str
    level: Level
    success: bool
    breach: str = ""
    reason: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Path and detail of every finding."""
        return tuple(f"{finding.path} ({finding.detail})" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The results of all rules, in the order they were checked, and how far each statistic moved if that was asked."""

    rules: tuple[RuleResult, ...]
    drift: tuple[Drift, ...] = ()

    @property
    def success(self) -> bool:
        """Whether the line can be used: no broken rule has the level "fail"."""
        return not self.failures()

    def failures(self) -> tuple[RuleResult, ...]:
        """Broken rules that stop the line."""
        return self._broken("fail")

    def warnings(self) -> tuple[RuleResult, ...]:
        """Broken rules that do not."""
        return self._broken("warn")

    def notes(self) -> tuple[RuleResult, ...]:
        """What is only worth knowing."""
        return self._broken("info")

    def _broken(self, level: Level) -> tuple[RuleResult, ...]:
        return tuple(rule for rule in self.rules if not rule.success and rule.level == level)


@dataclass(frozen=True)
class Rule:
    """One rule as expectations on the table's columns, by class name and arguments; all of them must hold.

    ``breach``: what a broken rule is called, after a number of images or the number that was observed. ``reason``: why
    it is broken, where that is not a list of images.
    """

    name: str
    asks: str
    breach: str
    level: Level
    expectations: tuple[tuple[str, dict[str, Any]], ...]
    reason: str = ""

    def result(self, outcomes: list[tuple[bool, Any]], findings: Findings) -> RuleResult:
        """The outcome in words. ``outcomes``: of each expectation whether it holds, and the value it observed."""
        if all(success for success, _ in outcomes):
            return RuleResult(self.name, self.asks, self.level, success=True)
        found = findings.by_rule.get(self.name, ())
        if self.reason:
            breach = reason = self.reason
        elif found:
            count = f"{len(found)} image{'s' if len(found) > 1 else ''}"
            named = name_files([f"{finding.path} ({finding.detail})" for finding in found], _NAMED[self.level])
            breach, reason = f"{count} {self.breach}", f"{count}: {named}"
        else:
            observed = next(value for success, value in outcomes if not success)
            breach, reason = f"{observed} {self.breach}", f"there {'is' if observed == 1 else 'are'} {observed}"
        return RuleResult(self.name, self.asks, self.level, False, breach, reason, found)


def rules_of(config: LineConfig, findings: Findings) -> list[Rule]:
    """The line's rules, in the order of the reports."""
    wanted = config.validate_
    rules = [_schema(), *_single_images(config)]
    if wanted.unusable == "quarantine":
        rules.extend(_quarantine(findings, wanted.max_quarantined))
    rules.extend(_relations(config))
    rules.extend(_counts(config))
    if not wanted.allow_mixed_modes:
        one = {"column": "mode", "max_value": 1}
        asks, breach = "All images are stored in the same mode", "stored in another mode than the others"
        rules.append(Rule("one_mode", asks, breach, "fail", (("ExpectColumnUniqueValueCountToBeBetween", one),)))
    if wanted.drift != "off":
        rules.extend(_drift(drift, wanted.drift, wanted.max_drift, wanted.max_outside) for drift in findings.drift)
    return rules


def _schema() -> Rule:
    """What the table itself must be, whatever the images are."""
    numbers = ("shorter_side", "longer_side", "aspect", "contrast", "mask_share")
    return Rule(
        "schema",
        "Every image has one row, a known split and label, and a sha256 if it could be read",
        "",
        "fail",
        (
            ("ExpectColumnValuesToNotBeNull", {"column": "path"}),
            ("ExpectColumnValuesToBeUnique", {"column": "path"}),
            ("ExpectColumnValuesToBeInSet", {"column": "split", "value_set": list(SPLITS)}),
            ("ExpectColumnValuesToBeInSet", {"column": "label", "value_set": [0, 1]}),
            ("ExpectColumnValuesToMatchRegex", {"column": "sha256", "regex": "^[0-9a-f]{64}$"}),
            *(("ExpectColumnValuesToBeOfType", {"column": column, "type_": "float64"}) for column in numbers),
        ),
        reason="the table of images is not as it must be, which is a fault of this program",
    )


def _single_images(config: LineConfig) -> Iterator[Rule]:
    """Rules that one image breaks by itself; with ``unusable: quarantine`` it has been left out by now."""
    wanted = config.validate_
    sides = [("ExpectColumnValuesToBeBetween", {"column": "shorter_side", "min_value": wanted.min_side})]
    asks = f"The shorter side of every image is at least {wanted.min_side} pixels"
    if wanted.max_side is not None:
        sides.append(("ExpectColumnValuesToBeBetween", {"column": "longer_side", "max_value": wanted.max_side}))
        asks += f", the longer one at most {wanted.max_side}"
    if wanted.max_aspect is not None:
        sides.append(("ExpectColumnValuesToBeBetween", {"column": "aspect", "max_value": wanted.max_aspect}))
        asks += f", the longer one at most {wanted.max_aspect:g} times that"
    known = {"column": "mode", "value_set": list(wanted.allowed_modes)}
    share = {"column": "mask_share", "max_value": wanted.max_mask_share}
    contrast = {"column": "contrast", "min_value": wanted.min_contrast}
    return iter(
        (
            _empty(
                "readable",
                "Every image can be read and has the bytes that it was catalogued with",
                "unreadable or changed",
                "fail",
                "problem",
            ),
            _empty(
                "masks",
                "Every anomalous image has a mask of its size that marks something, and no good one has",
                "without a usable mask",
                "fail",
                "mask_problem",
            ),
            Rule(
                "mask_share",
                f"No mask marks more than {wanted.max_mask_share:.0%} of its image",
                "with a mask that looks inverted",
                "warn",
                (("ExpectColumnValuesToBeBetween", share),),
            ),
            Rule("size", asks, "of a size that is not allowed", "fail", tuple(sides)),
            Rule(
                "mode",
                f"Every image is stored in one of the modes {', '.join(wanted.allowed_modes)}",
                "in a mode that is not allowed",
                "fail",
                (("ExpectColumnValuesToBeInSet", known),),
            ),
            Rule(
                "blank",
                f"Every image shows something: its contrast is at least {wanted.min_contrast:g}",
                "blank",
                "fail",
                (("ExpectColumnValuesToBeBetween", contrast),),
            ),
        )
    )


def _quarantine(findings: Findings, max_quarantined: float) -> Iterator[Rule]:
    count, images = len(findings.by_rule["quarantine"]), len(findings.rows)
    yield _empty("quarantine", "Every image could be used", "in quarantine", "warn")
    share = {"column": "quarantine", "mostly": round(1 - max_quarantined, 9)}
    yield Rule(
        "quarantine_share",
        f"At most {max_quarantined:.1%} of the images are in quarantine",
        "",
        "fail",
        (("ExpectColumnValuesToBeNull", share),),
        reason=f"{count} of {images} images ({count / images:.1%}) in quarantine",
    )


def _relations(config: LineConfig) -> Iterator[Rule]:
    """What two images must not have in common."""
    wanted = config.validate_
    yield _empty("duplicates_across", "No image is in training and in test", "both in training and in test", "fail")
    yield _empty("contradictions", "No image is both good and anomalous", "both good and anomalous", "fail")
    yield _empty(
        "groups", "No physical part is in training and in test", "of parts both in training and in test", "fail"
    )
    if wanted.near_duplicates != "off":
        asks = "No photograph is in training and, saved differently, in test"
        breach = "that look the same in training and in test"
        yield _empty("near_duplicates", asks, breach, wanted.near_duplicates)
        asks = "No photograph is twice, saved differently, in training or in test"
        yield _empty("near_duplicates_within", asks, "that look the same as another one", "info")
    level: Level = "info" if wanted.allow_duplicates_within_split else "fail"
    yield _empty("duplicates_within", "No image is twice in its split", "twice in their split", level)


def _counts(config: LineConfig) -> Iterator[Rule]:
    wanted = config.validate_
    yield _at_least("enough_good", "good training images", "good_training", wanted.min_train_images)
    yield _at_least("calibration", "good images for the operating point (calibration)", "calibration", 1)
    if config.data.validation_fraction > 0:
        yield _at_least("validation", "good images for choosing checkpoints (validation)", "validation", 1)
    if wanted.min_test_good:
        yield _at_least("test_good", "good test images", "test_good", wanted.min_test_good)
    if wanted.min_test_defects:
        yield _at_least("test_defects", "defective test images", "test_defects", wanted.min_test_defects)


def _drift(drift: Drift, level: Level, max_drift: float, max_outside: float) -> Rule:
    name = drift.statistic
    inside = {
        "column": f"good_{name}",
        "min_value": drift.smallest,
        "max_value": drift.largest,
        "mostly": round(1 - max_outside, 9),
    }
    return Rule(
        f"{name}_drift",
        f"The good images have the {_NAMES.get(name, name)} that the champion was trained on (up to {max_drift:g} "
        f"deviations, {max_outside:.0%} out of range)",
        "",
        level,
        (
            ("ExpectColumnMaxToBeBetween", {"column": f"drift_{name}", "max_value": max_drift}),
            ("ExpectColumnValuesToBeBetween", inside),
        ),
        reason=describe(drift),
    )


def _empty(name: str, asks: str, breach: str, level: Level, column: str | None = None) -> Rule:
    return Rule(name, asks, breach, level, (("ExpectColumnValuesToBeNull", {"column": column or name}),))


def _at_least(name: str, what: str, column: str, count: int) -> Rule:
    few = {"column": column, "min_value": count}
    breach = f"{what}, at least {count} needed"
    return Rule(name, f"There are at least {count} {what}", breach, "fail", (("ExpectColumnSumToBeBetween", few),))
