"""Step validate: a line's image folder in, manifest and validation report out."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stlm_core.config import LineConfig
from stlm_core.data.drift import TrainingStatistics, reference_path
from stlm_core.data.inspection import Inspected, Inspection, inspect_line
from stlm_core.data.manifest import SPLITS, manifest_of
from stlm_core.data.quarantine import Unusable, exclude, find_unusable, write_quarantine
from stlm_core.errors import UserError
from stlm_core.files import write_json_atomic
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.workspace import Workspace

if TYPE_CHECKING:
    from stlm_core.integrations.expectation_rules import RuleResult, ValidationReport

MANIFEST_FILE = "manifest.parquet"
REPORT_FILE = "validation.json"
QUARANTINE_FILE = "quarantine.csv"
STATISTICS_FILE = "statistics.json"
DOCS_FOLDER = "data_docs"


def validate(config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Look at every image of the line, check the rules of ``config.validate_``, write the manifest.

    Writes ``manifest.parquet``, ``validation.json``, ``quarantine.csv``, ``statistics.json`` (what drift is measured
    against once the model is in service), ``data_docs/`` and the Great Expectations context ``gx/``. All but the last
    two (which carry the time of the run) are the same bytes for the same images and settings. Of a line that fails,
    they lie in the sibling folder ``validate-failed``, without manifest and statistics; an earlier valid manifest is
    kept. Warnings go to standard error, one line each.

    Raises:
        UserError: the folder is missing or not in the configured layout, or a rule is broken; the message names
            the rules, the files and the report.
    """
    folder = workspace.folder("validate")
    failed = folder.with_name(f"{folder.name}-failed")
    inspection = inspect_line(config)
    reference = _reference(config)

    def work(partial: Path) -> str:
        return _validate(config, inspection, reference, partial, failed)

    result = run_step(
        "validate", config, ("data", "validate"), _inputs(config, inspection, reference), folder, work, force=force
    )
    shutil.rmtree(failed, ignore_errors=True)
    for rule in json.loads((result.folder / REPORT_FILE).read_text(encoding="utf-8"))["rules"]:
        if not rule["success"] and rule["level"] == "warn":
            print(f"warning: {rule['asks']}: no, {rule['reason']}", file=sys.stderr)
    return result


def _reference(config: LineConfig) -> Path | None:
    """The training statistics of the line's champion, if it has one and they are asked for."""
    path = reference_path(config)
    return path if config.validate_.drift != "off" and path.is_file() else None


def _inputs(config: LineConfig, inspection: Inspection, reference: Path | None) -> dict[str, Path | str]:
    """What was found is what counts: nothing is hashed again. The other files are those that say what it means.

    A catalogue knows the groups, and its hash is the one that the settings name: after a kill it may not have its
    place yet.
    """
    inputs: dict[str, Path | str] = {"images": inspection.digest()}
    if config.data.catalog is not None:
        inputs["catalog"] = config.data.catalog_sha256 or config.resolve(config.data.catalog)
    elif config.data.group_file is not None:
        inputs["groups"] = config.resolve(config.data.group_file)
    if reference is not None:
        inputs["reference"] = reference
    return inputs


def _validate(config: LineConfig, inspection: Inspection, reference: Path | None, partial: Path, failed: Path) -> str:
    from stlm_core.integrations.expectations import validate_inspection  # seconds to import

    statistics = TrainingStatistics.read(reference) if reference is not None else None
    unusable = find_unusable(inspection, config.validate_)
    quarantined = unusable if config.validate_.unusable == "quarantine" else ()
    kept = exclude(inspection, quarantined)
    report = validate_inspection(inspection, config, partial, quarantined=quarantined, reference=statistics)
    write_quarantine(partial / QUARANTINE_FILE, quarantined)
    write_json_atomic(partial / REPORT_FILE, _to_json(config, kept, quarantined, report))
    if not report.success:
        failed.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(failed, ignore_errors=True)
        shutil.copytree(partial, failed, ignore=shutil.ignore_patterns(".fingerprint"))
        reasons = "; ".join(f"{rule.asks}: no, {rule.reason}" for rule in report.failures())
        raise UserError(f"line {config.name} is not valid: {reasons}. Report: {failed / DOCS_FOLDER / 'index.html'}")
    manifest_of(kept).write(partial / MANIFEST_FILE)
    TrainingStatistics.of([row for row in kept.rows if row.split != "test"]).write(partial / STATISTICS_FILE)
    return _summary(config, kept, quarantined, report)


def _summary(config: LineConfig, kept: Inspection, quarantined: tuple[Unusable, ...], report: ValidationReport) -> str:
    counts = _counts(kept.rows)
    summary = ", ".join(f"{counts[split]} {split}" for split in SPLITS) + f" images of line {config.name} are valid"
    if quarantined:
        summary += f", {len({entry.path for entry in quarantined})} in quarantine"
    if warnings := len(report.warnings()):
        summary += f", {warnings} warning{'s' if warnings > 1 else ''}"
    return summary


def _counts(rows: tuple[Inspected, ...]) -> dict[str, int]:
    counts = Counter(row.split for row in rows if not row.problem)
    return {split: counts[split] for split in SPLITS}


def _to_json(
    config: LineConfig, kept: Inspection, quarantined: tuple[Unusable, ...], report: ValidationReport
) -> dict[str, Any]:
    usable = [row for row in kept.rows if not row.problem]
    sides = [side for row in usable for side in (row.width, row.height)]
    return {
        "line": config.name,
        "success": report.success,
        "images": _counts(kept.rows),
        "quarantined": len({entry.path for entry in quarantined}),
        "defect_types": dict(sorted(Counter(row.defect_type for row in usable if row.label).items())),
        "modes": dict(sorted(Counter(row.mode for row in usable).items())),
        "groups": len({row.group for row in usable if row.group}),
        "side_pixels": {"min": min(sides, default=0), "max": max(sides, default=0)},
        "ignored_files": dict(kept.ignored),
        "drift": [asdict(drift) for drift in report.drift],
        "rules": [_rule_to_json(rule) for rule in report.rules],
    }


def _rule_to_json(rule: RuleResult) -> dict[str, Any]:
    return {
        "rule": rule.rule,
        "asks": rule.asks,
        "level": rule.level,
        "success": rule.success,
        "reason": rule.reason,
        "files": rule.files,
    }
