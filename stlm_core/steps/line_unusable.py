"""Files of an update that cannot be used: whether they stop it, and the list of them that the line keeps."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from stlm_core.data.inspection import Inspected, name_files
from stlm_core.errors import UserError
from stlm_core.settings import ValidateConfig
from stlm_core.steps.line_files import reason, write_quarantine

_COLUMNS = ["path", "split", "defect_type", "reason"]


def refusal(rules: ValidateConfig, bad: Sequence[Inspected], joining: int) -> str:
    """Why an update with ``bad`` files beside ``joining`` images that join is refused; "" if it is not."""
    if not bad:
        return ""
    named = name_files([f"{row.path} ({reason(row)})" for row in bad])
    if rules.unusable == "fail":
        return (
            f"unusable images, {len(bad)} in all: {named}; repair or remove them, or leave such files out with "
            "`validate.unusable: quarantine`"
        )
    total = len(bad) + joining
    if len(bad) > rules.max_quarantined * total:
        return (
            f"{len(bad)} of {total} new images are unusable, `validate.max_quarantined` = {rules.max_quarantined:g} "
            f"allows fewer: {named}; repair or remove them, or raise it"
        )
    return ""


def read_quarantine(path: Path) -> list[Inspected]:
    """The files that were left out of the line so far, with their reasons as problems.

    Raises:
        UserError: the list cannot be read.
    """
    if not path.is_file():
        return []
    remedy = "get it back from version control, or remove it"
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *table = list(csv.reader(stream, strict=True))
        if header != _COLUMNS:
            raise ValueError("other columns")
        return [
            Inspected(name, split, int(defect_type != "good"), defect_type, "", "", problem=why)
            for name, split, defect_type, why in table
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a list of files that were left out: {error}; {remedy}") from None


def add_to_quarantine(path: Path, bad: Sequence[Inspected]) -> None:
    """Append ``bad`` to the list; a file that is listed already gets its new reason.

    Raises:
        UserError: the list cannot be read or written.
    """
    if bad:
        rows = {row.path: row for row in (*read_quarantine(path), *bad)}
        write_quarantine(path, list(rows.values()))
