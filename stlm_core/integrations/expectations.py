"""Great Expectations: the rules a line's images must meet, and Data Docs that show them."""

from __future__ import annotations

import html
import math
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from stlm_core.config import LineConfig
from stlm_core.data.inspection import Inspected, Inspection, name_files

if TYPE_CHECKING:
    from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext

_SITE = "line"
_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem 2rem; max-width: 70rem; color: #1d2329 }
table { border-collapse: collapse; margin: .4rem 0; width: 100% }
td, th { border: 1px solid #d0d7de; padding: .3rem .6rem; vertical-align: top; text-align: left }
h1, h2, h3, h4, h5, h6 { font-size: 1.1rem; margin: .8rem 0 .2rem }
.fa-times::before { content: "\\2717"; color: #c62828 }
.fa-check-circle::before { content: "\\2713"; color: #2e7d32 }
.alert { background: #f6f8fa; padding: .2rem .8rem; margin: 1rem 0 .2rem }
ol, ul { list-style: none; padding: 0 } .breadcrumb li { display: inline; margin-right: .8rem }
.sticky, .collapse, [data-toggle="collapse"] { display: none }
</style>"""


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule: what it asks for, in words, whether it holds, and if not the reason and the files at fault."""

    rule: str
    asks: str
    success: bool
    reason: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The results of all rules, in the order they were checked."""

    rules: tuple[RuleResult, ...]

    @property
    def success(self) -> bool:
        """Whether every rule holds."""
        return all(rule.success for rule in self.rules)

    def failures(self) -> tuple[RuleResult, ...]:
        """The rules that do not hold."""
        return tuple(rule for rule in self.rules if not rule.success)


@dataclass(frozen=True)
class _Rule:
    """An expectation by its class name, with what the report says about it.

    ``at_fault`` names the files when the expectation is about the column as a whole.
    """

    name: str
    asks: str
    expectation: str
    arguments: dict[str, Any]
    at_fault: Callable[[pd.DataFrame], Iterable[str]] = field(default=lambda _: ())


def validate_inspection(inspection: Inspection, config: LineConfig, docs: Path) -> ValidationReport:
    """Check an inspected line against ``config.validate_`` and render Data Docs into the folder ``docs``.

    The docs need no network: pages, styles and nothing else. They carry the time of the run and random
    identifiers, so their bytes differ from run to run.
    """
    # Read by the package while it is imported: no usage statistics leave the factory.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations import expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    frame = _frame(inspection)
    context: EphemeralDataContext = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    _add_site(context, docs)
    rules = _rules(config)
    suite = context.suites.add(gx.ExpectationSuite(name=config.name))
    for rule in rules:
        kind = getattr(expectations, rule.expectation)
        suite.add_expectation(kind(**rule.arguments, description=rule.asks, meta={"rule": rule.name}))
    batch = (
        context.data_sources.add_pandas("images")
        .add_dataframe_asset(config.name)
        .add_batch_definition_whole_dataframe("all")
    )
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=config.name, data=batch, suite=suite))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=config.name,
            validation_definitions=[definition],
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["path"]},
        )
    )
    run = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=gx.RunIdentifier(run_name=config.name))
    context.build_data_docs(site_names=[_SITE])
    _make_self_contained(docs)
    _write_index(docs, config.name)
    (outcome,) = run.run_results.values()
    results: dict[str, Any] = {}
    for result in outcome.results:
        if result.expectation_config is not None:
            results[result.expectation_config.meta["rule"]] = result
    return ValidationReport(tuple(_result(rule, results[rule.name], frame) for rule in rules))


def _rules(config: LineConfig) -> list[_Rule]:
    wanted = config.validate_
    rules = [
        _must_be_empty("readable", "Every image can be read", "problem"),
        _must_be_empty("masks", "Every anomalous image has a mask of its size that marks something", "mask_problem"),
        _Rule(
            "size",
            f"The shorter side of every image is at least {wanted.min_side} pixels",
            "ExpectColumnValuesToBeBetween",
            {"column": "shorter_side", "min_value": wanted.min_side},
        ),
        _Rule(
            "mode",
            f"Every image is stored in one of the modes {', '.join(wanted.allowed_modes)}",
            "ExpectColumnValuesToBeInSet",
            {"column": "mode", "value_set": list(wanted.allowed_modes)},
        ),
        _must_be_empty("duplicates_across", "No image is in training and in test", "duplicate_across"),
        _must_be_empty("contradictions", "No image is both good and anomalous", "contradiction"),
        _must_be_empty("groups", "No physical part is in training and in test", "group_across"),
        _at_least("enough_good", "good training images", "good_training", wanted.min_train_images),
        _at_least("calibration", "good image for the operating point (calibration)", "calibration", 1),
    ]
    if config.data.validation_fraction > 0:
        rules.append(_at_least("validation", "good image for choosing checkpoints (validation)", "validation", 1))
    if not wanted.allow_mixed_modes:
        rules.append(
            _Rule(
                "one_mode",
                "All images are stored in the same mode",
                "ExpectColumnUniqueValueCountToBeBetween",
                {"column": "mode", "max_value": 1},
                at_fault=_in_rarer_modes,
            )
        )
    if not wanted.allow_duplicates_within_split:
        rules.append(_must_be_empty("duplicates_within", "No image is twice in its split", "duplicate_within"))
    return rules


def _must_be_empty(name: str, asks: str, column: str) -> _Rule:
    return _Rule(name, asks, "ExpectColumnValuesToBeNull", {"column": column})


def _at_least(name: str, what: str, column: str, count: int) -> _Rule:
    return _Rule(
        name, f"There is at least {count} {what}", "ExpectColumnSumToBeBetween", {"column": column, "min_value": count}
    )


def _in_rarer_modes(frame: pd.DataFrame) -> Iterable[str]:
    counts = Counter(mode for mode in frame["mode"] if mode is not None)
    usual = max(sorted(counts), key=lambda mode: counts[mode])
    rarer = frame[(frame["mode"] != usual) & frame["mode"].notna()]
    return [f"{path} ({mode}, not {usual})" for path, mode in zip(rarer["path"], rarer["mode"], strict=True)]


def _frame(inspection: Inspection) -> pd.DataFrame:
    """One row an image; a column that explains a problem is null where there is none.

    Facts of an unreadable image are null too, so that only the rule "readable" complains about it.
    """
    rows = inspection.rows
    usable = [row for row in rows if not row.problem]
    same_bytes = _related(usable, lambda row: row.sha256)
    same_part = _related(usable, lambda row: row.group)
    return pd.DataFrame(
        {
            "path": _texts(row.path for row in rows),
            "problem": _texts(row.problem for row in rows),
            "mask_problem": _texts(row.mask_problem for row in rows),
            "shorter_side": [math.nan if row.problem else min(row.width, row.height) for row in rows],
            "mode": _texts(row.mode for row in rows),
            "duplicate_across": _texts(_first(row, same_bytes, "same bytes as", _on_other_side) for row in rows),
            "duplicate_within": _texts(_first(row, same_bytes, "same bytes as", _in_same_split) for row in rows),
            "contradiction": _texts(_first(row, same_bytes, "same bytes as", _of_other_label) for row in rows),
            "group_across": _texts(_first(row, same_part, "same part as", _on_other_side) for row in rows),
            "good_training": [int(row.split != "test" and not row.problem) for row in rows],
            "calibration": [int(row.split == "calibration") for row in rows],
            "validation": [int(row.split == "validation") for row in rows],
        }
    )


def _texts(values: Iterable[str]) -> pd.Series[Any]:
    """Escaped, because Data Docs puts values into its pages as they are, and a file name is anybody's text."""
    return pd.Series([html.escape(value) or None for value in values], dtype=object)


def _related(rows: Iterable[Inspected], key: Callable[[Inspected], str]) -> dict[str, list[Inspected]]:
    """Rows of equal non-empty ``key``, under the path of each of them."""
    members: defaultdict[str, list[Inspected]] = defaultdict(list)
    for row in rows:
        if key(row):
            members[key(row)].append(row)
    return {row.path: group for group in members.values() for row in group}


def _first(
    row: Inspected,
    related: dict[str, list[Inspected]],
    words: str,
    conflict: Callable[[Inspected, Inspected], bool],
) -> str:
    for other in related.get(row.path, ()):
        if other.path != row.path and conflict(row, other):
            return f"{words} {other.path}"
    return ""


def _on_other_side(row: Inspected, other: Inspected) -> bool:
    return (row.split == "test") != (other.split == "test")


def _in_same_split(row: Inspected, other: Inspected) -> bool:
    return row.split == other.split


def _of_other_label(row: Inspected, other: Inspected) -> bool:
    return row.label != other.label


def _result(rule: _Rule, result: Any, frame: pd.DataFrame) -> RuleResult:
    """The outcome in words; the offending files are those that the expectation itself found."""
    if result.success:
        return RuleResult(rule.name, rule.asks, success=True)
    column = rule.arguments["column"]
    found = result.result.get("unexpected_index_list") or []
    at_fault = [f"{entry['path']} ({_shown(entry[column])})" for entry in found] or rule.at_fault(frame)
    files = tuple(html.unescape(file) for file in at_fault)
    if files:
        reason = f"{len(files)} image{'s' if len(files) > 1 else ''}: {name_files(files)}"
    else:
        reason = f"there {'is' if result.result['observed_value'] == 1 else 'are'} {result.result['observed_value']}"
    return RuleResult(rule.name, rule.asks, success=False, reason=reason, files=files)


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g} pixels"


def _add_site(context: EphemeralDataContext, docs: Path) -> None:
    for site in list(context.list_data_docs_sites()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        _SITE,
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
        },
    )


def _make_self_contained(docs: Path) -> None:
    """Take out what the pages would load from elsewhere, and the scripts that need it; style them ourselves."""
    shutil.rmtree(docs / "static", ignore_errors=True)
    for page in docs.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"<(script|style|footer)\b.*?</\1>", "", text, flags=re.DOTALL | re.IGNORECASE)
        text = re.sub(r"<(link|img)\b[^>]*>", "", text, flags=re.IGNORECASE)
        page.write_text(text.replace("</head>", f"{_STYLE}\n</head>", 1), encoding="utf-8")


def _write_index(docs: Path, line: str) -> None:
    """The package's own index builds its tables with scripts from elsewhere; plain links do the same."""
    pages = sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.html") if page.parent != docs)
    names = {"validations": "Result of the validation", "expectations": "The rules"}
    links = "".join(
        f'<li><a href="{quote(page)}">{names.get(page.split("/")[0], page)}</a></li>' for page in reversed(pages)
    )
    text = f"<title>{line}</title>{_STYLE}</head><body><h1>Images of line {line}</h1><ul>{links}</ul></body></html>"
    (docs / "index.html").write_text(f'<!DOCTYPE html><html><head><meta charset="utf-8">{text}\n', encoding="utf-8")
