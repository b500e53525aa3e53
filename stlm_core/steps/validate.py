"""Step validate: a line's image folder in, manifest and validation report out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stlm_core.config import LineConfig
from stlm_core.data.adapters import find_adapter
from stlm_core.data.inspection import Inspection, inspect_line
from stlm_core.data.manifest import SPLITS, manifest_of
from stlm_core.errors import UserError
from stlm_core.files import write_json_atomic
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.workspace import Workspace

if TYPE_CHECKING:
    from stlm_core.integrations.expectations import ValidationReport

MANIFEST_FILE = "manifest.parquet"
REPORT_FILE = "validation.json"
DOCS_FOLDER = "data_docs"


def validate(config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Read every image of the line, check the rules of ``config.validate_``, write the manifest.

    Writes ``manifest.parquet``, ``validation.json`` and ``data_docs/``. All but the docs (which carry the time of
    the run) are the same bytes for the same images and settings. Of a line that fails, ``validation.json`` and the docs
    lie in the sibling folder ``validate-failed``; an earlier valid manifest is kept.

    Raises:
        UserError: the folder is missing or not in the configured layout, or a rule is broken; the message names
            the rules, the files and the report.
    """
    folder = workspace.folder("validate")
    failed = folder.with_name(f"{folder.name}-failed")
    root = config.resolve(config.data.path)

    def work(partial: Path) -> str:
        return _validate(config, partial, failed)

    if _has_locked_files(config, root):  # the contract hashes all inputs first and would stop at the first of them
        with tempfile.TemporaryDirectory() as scratch:
            work(Path(scratch))
    inputs = {"images": root}
    if config.data.group_file is not None:
        inputs["groups"] = config.resolve(config.data.group_file)
    result = run_step("validate", config, ("data", "validate"), inputs, folder, work, force=force)
    shutil.rmtree(failed, ignore_errors=True)
    return result


def _has_locked_files(config: LineConfig, root: Path) -> bool:
    records = find_adapter(config.data.format).scan(root).records
    names = (name for record in records if not record.problem for name in (record.path, record.mask_path) if name)
    return any(not os.access(root / name, os.R_OK) for name in names)


def _validate(config: LineConfig, partial: Path, failed: Path) -> str:
    from stlm_core.integrations.expectations import validate_inspection  # seconds to import

    inspection = inspect_line(config)
    report = validate_inspection(inspection, config, partial / DOCS_FOLDER)
    write_json_atomic(partial / REPORT_FILE, _to_json(config, inspection, report))
    if not report.success:
        failed.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(failed, ignore_errors=True)
        shutil.copytree(partial, failed, ignore=shutil.ignore_patterns(".*"))
        reasons = "; ".join(f"{rule.asks}: no, {rule.reason}" for rule in report.failures())
        raise UserError(f"line {config.name} is not valid: {reasons}. Report: {failed / DOCS_FOLDER / 'index.html'}")
    manifest_of(inspection).write(partial / MANIFEST_FILE)
    counts = _counts(inspection)
    return ", ".join(f"{counts[split]} {split}" for split in SPLITS) + f" images of line {config.name} are valid"


def _counts(inspection: Inspection) -> dict[str, int]:
    counts = Counter(row.split for row in inspection.rows if not row.problem)
    return {split: counts[split] for split in SPLITS}


def _to_json(config: LineConfig, inspection: Inspection, report: ValidationReport) -> dict[str, Any]:
    usable = [row for row in inspection.rows if not row.problem]
    sides = [side for row in usable for side in (row.width, row.height)]
    return {
        "line": config.name,
        "success": report.success,
        "images": _counts(inspection),
        "defect_types": dict(sorted(Counter(row.defect_type for row in usable if row.label).items())),
        "modes": dict(sorted(Counter(row.mode for row in usable).items())),
        "groups": len({row.group for row in usable if row.group}),
        "side_pixels": {"min": min(sides, default=0), "max": max(sides, default=0)},
        "ignored_files": dict(inspection.ignored),
        "rules": [
            {"rule": rule.rule, "asks": rule.asks, "success": rule.success, "reason": rule.reason, "files": rule.files}
            for rule in report.rules
        ],
    }
