"""Is it time to train a line again? Judged by local files alone: what the last training learned from, and the drift."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stlm_core.config import LineConfig
from stlm_core.data.catalog import CatalogRow
from stlm_core.data.drift import Drift, TrainingStatistics, compare, describe, reference_path
from stlm_core.data.inspection import Inspected
from stlm_core.errors import StlmError
from stlm_core.files import sha256_file
from stlm_core.steps.contract import read_manifest
from stlm_core.steps.workspace import Workspace
from stlm_core.synthesis.bank import INDEX

STATISTICS = "statistics.json"  # of step validate


@dataclass(frozen=True, slots=True)
class Retraining:
    """``due`` and why, or why not.

    ``new_share``: good images since the last training over those it had; None if unknown.
    ``drift``: clauses on the statistics in which the new images are unlike the training images; None without statistics
    of those to compare with.
    """

    due: bool
    reasons: tuple[str, ...]
    new_share: float | None
    drift: tuple[str, ...] | None


def judge(config: LineConfig, workspace: Workspace, rows: Sequence[CatalogRow], new: Sequence[Inspected]) -> Retraining:
    """Judge the catalogue ``rows``, of which ``new`` are the good training images that have just come.

    An image is older than the last training if the manifest that it used lists it, in whatever split, or the validation
    put it in quarantine then. That manifest is the one of step ``validate`` whose hash the bank's step noted, and the
    bank the one whose hash the training noted. When the validation has run again since, that manifest is gone, and an
    update counts as older if the bank holds an image of it or of a later update: it took the whole catalogue of its
    time.

    Raises:
        UserError: the training statistics to compare with are damaged.
    """
    flagged = _drift(config, workspace, new)
    drift = None if flagged is None else tuple(describe(found) for found in flagged)
    because = [f"the new images differ from the training images: {clause}" for clause in drift or ()]
    learned = _learned_images(workspace)
    seen = _seen_images(workspace)
    if isinstance(learned, str):
        return Retraining(True, (learned, *because), None, drift)
    latest = max((row.batch for row in rows if row.sha256 in learned), default=-1)

    def older(row: CatalogRow) -> bool:
        if seen is None:
            return row.batch <= latest
        return row.sha256 in seen.images or row.path in seen.quarantined

    good = [row for row in rows if row.split == "train"]
    fresh = sum(1 for row in good if not older(row))
    known = len(good) - fresh
    share = fresh / known if known else None
    if lost := len(learned - {row.sha256 for row in good}):
        because.append(f"{lost} images that the last training learned from are not the line's any more")
    if tests := sum(1 for row in rows if row.split == "test" and not older(row)):
        because.append(f"{tests} test images are newer than the last training")
    wanted = config.data.retrain_share
    of = f"{fresh} good images since the last training, which had {known}"
    if share is None or share >= wanted:
        because.append(f"{of}: at least `data.retrain_share` = {wanted:g}")
    reasons = tuple(because) or (f"{of}: less than `data.retrain_share` = {wanted:g}",)
    return Retraining(bool(because), reasons, share, drift)


def _learned_images(workspace: Workspace) -> set[str] | str:
    """sha256 of the images in the bank of the last training, or why they are not known."""
    if not (workspace.folder("train-fa") / "manifest.json").is_file():
        return "never trained"
    index = workspace.folder("synthesize") / INDEX
    changed = "the data of the last training are not there any more"
    try:
        if read_manifest(workspace.folder("train-fa"))["inputs"]["bank"] != sha256_file(index):
            return changed
        return set(pq.read_table(index, columns=["image"])["image"].to_pylist())
    except (StlmError, LookupError, TypeError, OSError, pa.ArrowException):
        return changed


@dataclass(frozen=True, slots=True)
class _Seen:
    """sha256 of the images in the manifest of the last training, and paths of those in quarantine then."""

    images: frozenset[str]
    quarantined: frozenset[str]


def _seen_images(workspace: Workspace) -> _Seen | None:
    """What the last training could know; None if its manifest is not there any more."""
    folder = workspace.folder("validate")
    manifest = folder / "manifest.parquet"
    try:
        if read_manifest(workspace.folder("synthesize"))["inputs"]["manifest"] != sha256_file(manifest):
            return None
        images = pq.read_table(manifest, columns=["sha256"])["sha256"].to_pylist()
        return _Seen(frozenset(images), _quarantined(folder / "quarantine.csv"))
    except (StlmError, LookupError, TypeError, OSError, ValueError, csv.Error, pa.ArrowException):
        return None


def _quarantined(path: Path) -> frozenset[str]:
    with path.open(newline="", encoding="utf-8") as stream:
        return frozenset(row["path"] for row in csv.DictReader(stream))


def _drift(config: LineConfig, workspace: Workspace, new: Sequence[Inspected]) -> list[Drift] | None:
    """Statistics in which ``new`` drifted; None when there is nothing to compare with or it is switched off."""
    rules = config.validate_
    known: list[Path] = [reference_path(config), workspace.folder("validate") / STATISTICS]
    reference = next((path for path in known if path.is_file()), None)
    if reference is None or rules.drift == "off":
        return None
    found = compare(TrainingStatistics.read(reference), new)
    return [drift for drift in found if drift.exceeds(rules.max_drift, rules.max_outside)]
