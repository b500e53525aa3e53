"""The table that the rules are checked on: one row an image, and a column for everything a rule asks about."""

from __future__ import annotations

import html
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stlm_core.config import LineConfig
from stlm_core.data.drift import Drift, TrainingStatistics, compare
from stlm_core.data.inspection import Inspected, Inspection
from stlm_core.data.quarantine import Unusable, unusable_reasons
from stlm_core.data.similarity import find_near_duplicates

_FARTHEST = 24  # images that a drifted statistic names


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one image, and the other image or mask it is about ("" for none)."""

    path: str
    detail: str
    other: str = ""


@dataclass(frozen=True)
class Findings:
    """A line's images as the rules see them.

    ``rows``: images, sorted by path. ``kept``: those that are not in quarantine. ``by_rule``: what single images are
    found wanting in, by the name of the rule. ``drift``: empty without a reference.
    """

    rows: tuple[Inspected, ...]
    kept: tuple[Inspected, ...]
    by_rule: Mapping[str, tuple[Finding, ...]]
    drift: tuple[Drift, ...]


def good_training(rows: Iterable[Inspected]) -> tuple[Inspected, ...]:
    """The good images of the training side in ``rows`` that can be read: what the line learns from."""
    return tuple(row for row in rows if row.split != "test" and not row.label and not row.problem)


def find_everything(
    inspection: Inspection,
    config: LineConfig,
    quarantined: Sequence[Unusable],
    reference: TrainingStatistics | None,
) -> Findings:
    """Look at every image of an inspected line; images in ``quarantined`` are only listed as such.

    ``reference``: statistics of the images that the champion was trained on, None where there is no champion.
    """
    rules = config.validate_
    out = {entry.path for entry in quarantined}
    kept = tuple(row for row in inspection.rows if row.path not in out)
    usable = [row for row in kept if not row.problem]
    found: defaultdict[str, list[Finding]] = defaultdict(list)
    for row in kept:
        for rule, reason in unusable_reasons(row, rules):
            found[rule].append(Finding(row.path, reason, row.mask_path if rule == "masks" else ""))
    found["mask_share"] = [
        Finding(
            row.path, f"{row.mask_path}: {row.mask_share:.1%} of the image is marked; is it inverted?", row.mask_path
        )
        for row in usable
        if row.mask_share > rules.max_mask_share and not row.mask_problem
    ]
    found["quarantine"] = _left_out(quarantined)
    for rule, words, key, category, same in _RELATIONS:
        others = _counterparts(usable, key, category, same=same)
        found[rule] = [Finding(path, f"{words} {other}", other) for path, other in others.items()]
    if rules.near_duplicates != "off":
        alike = find_near_duplicates(usable, rules.near_duplicate_similarity)
        for rule, copies in (("near_duplicates", alike.across), ("near_duplicates_within", alike.within)):
            for index, copy in sorted(copies.items()):
                other = usable[copy.index].path
                detail = f"looks the same as {other}, similarity {copy.similarity:.3f}"
                found[rule].append(Finding(usable[index].path, detail, other))
    found["one_mode"] = list(_in_rarer_modes(usable))
    learnt = good_training(kept)
    drift = compare(reference, learnt) if reference is not None and rules.drift != "off" else []
    for one in drift:
        found[f"{one.statistic}_drift"] = _unusual(one, learnt)
    by_rule = {rule: tuple(entries) for rule, entries in found.items()}
    return Findings(inspection.rows, kept, by_rule, tuple(drift))


def table_of(findings: Findings) -> pd.DataFrame:
    """One row an image; a column that explains a problem is null where there is none.

    Facts of an image that cannot be read or is in quarantine are null too, so that only one rule complains of it.
    ``good_<statistic>`` is set for good training images; ``drift_<statistic>``, the line's distance, is in every row.
    """
    rows = findings.rows
    kept = {row.path for row in findings.kept}
    known = [row.path in kept and not row.problem for row in rows]
    learnt = {row.path for row in good_training(findings.kept)}
    columns: dict[str, Any] = {
        "path": _texts(row.path for row in rows),
        "split": _texts(row.split for row in rows),
        "label": [row.label for row in rows],
        "sha256": _texts(row.sha256 for row in rows),
        "problem": _texts(row.problem if row.path in kept else "" for row in rows),
        "mask_problem": _texts(row.mask_problem if is_known else "" for row, is_known in _each(rows, known)),
        "mode": _texts(row.mode if is_known else "" for row, is_known in _each(rows, known)),
        "shorter_side": _numbers(rows, known, lambda row: min(row.width, row.height)),
        "longer_side": _numbers(rows, known, lambda row: max(row.width, row.height)),
        "aspect": _numbers(rows, known, lambda row: max(row.width, row.height) / min(row.width, row.height)),
        "contrast": _numbers(rows, known, lambda row: row.contrast),
        "mask_share": _numbers(rows, known, lambda row: math.nan if row.mask_problem else row.mask_share),
    }
    for rule in EXPLAINED:
        details = {finding.path: finding.detail for finding in findings.by_rule.get(rule, ())}
        columns[rule] = _texts(details.get(row.path, "") for row in rows)
    for name, belongs in _COUNTED.items():
        columns[name] = [int(is_known and belongs(row)) for row, is_known in _each(rows, known)]
    for drift in findings.drift:
        name = drift.statistic
        columns[f"good_{name}"] = [float(getattr(row, name)) if row.path in learnt else math.nan for row in rows]
        columns[f"drift_{name}"] = [drift.distance] * len(rows)
    return pd.DataFrame(columns)


_Key = Callable[[Inspected], str]


def _bytes(row: Inspected) -> str:
    return row.sha256


def _part(row: Inspected) -> str:
    return row.group


def _side(row: Inspected) -> str:
    return "test" if row.split == "test" else "training"


def _split(row: Inspected) -> str:
    return row.split


def _label(row: Inspected) -> str:
    return "anomalous" if row.label else "good"


# Rule, words, what two images share, and in what they must differ, or be the same, to break the rule.
_RELATIONS: tuple[tuple[str, str, _Key, _Key, bool], ...] = (
    ("duplicates_across", "same bytes as", _bytes, _side, False),
    ("duplicates_within", "same bytes as", _bytes, _split, True),
    ("contradictions", "same bytes as", _bytes, _label, False),
    ("groups", "same part as", _part, _side, False),
)
EXPLAINED = ("quarantine", *(relation[0] for relation in _RELATIONS), "near_duplicates", "near_duplicates_within")
"""Rules with a column of their own, which says what is wrong with an image."""
_COUNTED: dict[str, Callable[[Inspected], bool]] = {
    "good_training": lambda row: row.split != "test",
    "calibration": lambda row: row.split == "calibration",
    "validation": lambda row: row.split == "validation",
    "test_good": lambda row: row.split == "test" and not row.label,
    "test_defects": lambda row: row.split == "test" and bool(row.label),
}


def _counterparts(rows: Iterable[Inspected], key: _Key, category: _Key, *, same: bool) -> dict[str, str]:
    """For every row the first other row of equal non-empty ``key`` and, as ``same`` says, equal or other category.

    Linear in the rows, however many of them share a key.
    """
    known = list(rows)
    firsts: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in known:
        if key(row) and len(paths := firsts[key(row)][category(row)]) < 2:
            paths.append(row.path)
    found = {}
    for row in known:
        if key(row):
            for name, paths in firsts[key(row)].items():
                others = [path for path in paths if path != row.path]
                if others and (name == category(row)) == same:
                    found[row.path] = others[0]
                    break
    return found


def _in_rarer_modes(rows: Sequence[Inspected]) -> Iterator[Finding]:
    counts = Counter(row.mode for row in rows)
    usual = max(sorted(counts), key=lambda mode: counts[mode], default="")
    return (Finding(row.path, f"{row.mode}, not {usual}") for row in rows if row.mode != usual)


def _left_out(quarantined: Iterable[Unusable]) -> list[Finding]:
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for entry in quarantined:
        reasons[entry.path].append(entry.reason)
    return [Finding(path, "; ".join(found)) for path, found in reasons.items()]


def _unusual(drift: Drift, rows: Sequence[Inspected]) -> list[Finding]:
    """Images outside the reference's range, or if those are few, as many of the farthest from its mean; those first."""
    values = [(float(getattr(row, drift.statistic)), row.path) for row in rows]
    values.sort(key=lambda entry: (-abs(entry[0] - drift.reference_mean), entry[1]))
    outside = sum(not drift.smallest <= value <= drift.largest for value, _ in values)
    return [Finding(path, f"{drift.statistic} {value:.4g}") for value, path in values[: max(outside, _FARTHEST)]]


def _texts(values: Iterable[str]) -> pd.Series[Any]:
    """Escaped, because Great Expectations puts values into its pages as they are, and a file name is anybody's text."""
    return pd.Series([html.escape(value) or None for value in values], dtype=object)


def _numbers(rows: Sequence[Inspected], known: Sequence[bool], value: Callable[[Inspected], float]) -> list[float]:
    return [float(value(row)) if is_known else math.nan for row, is_known in _each(rows, known)]


def _each(rows: Sequence[Inspected], known: Sequence[bool]) -> Iterator[tuple[Inspected, bool]]:
    return zip(rows, known, strict=True)
