"""Quarantine: images that cannot be used are left out of the manifest and listed; their files stay where they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from stlm_core.data.adapters.base import printable
from stlm_core.data.inspection import Inspected, Inspection
from stlm_core.files import write_bytes_atomic
from stlm_core.settings import ValidateConfig


@dataclass(frozen=True, slots=True)
class Unusable:
    """An image that breaks a rule on single files. ``sha256`` is that of the image file, "" if it was not read."""

    path: str
    rule: str
    reason: str
    sha256: str


def find_unusable(inspection: Inspection, rules: ValidateConfig) -> tuple[Unusable, ...]:
    """Every broken rule of every image, by path; an image that cannot be read breaks no other rule."""
    return tuple(
        Unusable(row.path, rule, reason, row.sha256)
        for row in inspection.rows
        for rule, reason in unusable_reasons(row, rules)
    )


def unusable_reasons(row: Inspected, rules: ValidateConfig) -> Iterator[tuple[str, str]]:
    """(rule, reason) of every rule on single files that ``row`` breaks.

    The rules: readable (and unchanged since it was catalogued), masks, size, mode, blank.
    """
    if row.problem:
        yield "readable", row.problem
        return
    if row.mask_problem:
        yield "masks", row.mask_problem
    if size := _size_problem(row, rules):
        yield "size", size
    if row.mode not in rules.allowed_modes:
        yield "mode", f"mode {row.mode}"
    if row.contrast < rules.min_contrast:
        yield "blank", f"contrast {row.contrast:.4f}"


def exclude(inspection: Inspection, unusable: tuple[Unusable, ...]) -> Inspection:
    """``inspection`` without the images that are listed as ``unusable``."""
    paths = {entry.path for entry in unusable}
    return replace(inspection, rows=tuple(row for row in inspection.rows if row.path not in paths))


def write_quarantine(path: Path, unusable: tuple[Unusable, ...]) -> None:
    """A CSV with the columns path, rule, reason, sha256; the header alone when nothing is in quarantine.

    Raises:
        UserError: it cannot be written.
    """
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(field.name for field in fields(Unusable))
    table.writerows([printable(value) for value in astuple(entry)] for entry in unusable)
    write_bytes_atomic(path, stream.getvalue().encode())


def _size_problem(row: Inspected, rules: ValidateConfig) -> str:
    shorter, longer = sorted((row.width, row.height))
    if shorter < rules.min_side:
        return f"{row.width} x {row.height} pixels, sides of at least {rules.min_side} are needed"
    if rules.max_side is not None and longer > rules.max_side:
        return f"{row.width} x {row.height} pixels, sides of at most {rules.max_side} are allowed"
    if rules.max_aspect is not None and longer > rules.max_aspect * shorter:
        return f"{row.width} x {row.height} pixels, {longer / shorter:.2f} times as long as wide"
    return ""
