"""``stlm lines add``: a dataset in, a line with a catalogue of its images out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stlm_core.config import LINE_NAME, LineConfig, load_params
from stlm_core.data.adapters import find_adapter
from stlm_core.data.catalog import Catalog, publish
from stlm_core.data.facts import FactStore
from stlm_core.data.inspection import Inspected, Inspection, inspect_scan, name_files
from stlm_core.errors import UserError
from stlm_core.steps.import_report import ImportReport
from stlm_core.steps.line_files import (
    Import,
    LineFolder,
    LineInfo,
    Mode,
    catalog_row,
    images_store,
    reason,
    source_store,
    track_images,
    write_quarantine,
)
from stlm_core.steps.line_import import importing, readable
from stlm_core.steps.line_jobs import files_inside, local_bytes
from stlm_core.steps.line_replacement import replacing, settle
from stlm_core.steps.line_source import Source, in_s3, open_source
from stlm_core.steps.params_file import checked, editing, entry_text, relative_to_project, with_entry, write_params


@dataclass(frozen=True, slots=True)
class NewLine:
    """What the images are and where: the ``data`` settings and the profile of a line to add.

    ``source`` is the dataset's folder or table; None for the one that an installed package holds. ``copy`` copies the
    images beside ``params.yaml``, otherwise they are used where they are. ``quarantine`` leaves out files that cannot
    be used instead of refusing the line.
    """

    name: str
    source: Path | None
    layout: str = "mvtec"
    profile: str = "fast"
    copy: bool = True
    category: str | None = None
    group_pattern: str | None = None
    group_file: Path | None = None
    license: str = "unknown"
    quarantine: bool = False


@dataclass(frozen=True, slots=True)
class AddedLine:
    """``entry``: YAML text of the line; ``catalog``: its list of images, not there after a dry run.

    ``to_commit``: the files to put under version control; ``tracked``: DVC's pointer to the images, if it tracks them;
    ``tracking_problem``: why it could not.
    """

    entry: str
    report: ImportReport
    catalog: Path
    to_commit: tuple[Path, ...] = ()
    tracked: Path | None = None
    tracking_problem: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    """The line's entry in the making: its settings on top of the text of ``params.yaml`` as it was."""

    params: Path
    text: str
    line: NewLine
    data: Mapping[str, Any]
    rules: Mapping[str, Any]

    def text_with(self, **data: Any) -> str:
        return with_entry(self.params, self.text, self.line.name, self.line.profile, {**self.data, **data}, self.rules)

    def config(self) -> LineConfig:
        return checked(self.params, self.text_with(), self.line.name)


def add_line(params: Path, line: NewLine, *, force: bool = False, dry_run: bool = False) -> AddedLine:
    """Read all images of ``line``, catalogue them under ``data/lines/<name>``, and add the line to ``params``.

    Comments and the other lines of ``params`` stay. Paths are stored relative to the folder of ``params``, so a
    checkout can move together with its data. With ``force`` a line of that name gets the new profile, images and
    ``data`` settings and keeps its other settings. ``params`` is written last; a call that fails leaves the line as
    it was, and after a kill the next call does so. A dry run writes nothing at all.

    Raises:
        UserError: a bad or taken name, an unknown profile or format, a dataset not in the format, images that cannot
            be used, read or copied; files at the place of the copies that are not to be replaced.
    """
    if not LINE_NAME.fullmatch(line.name):
        raise UserError(f"line name {line.name!r}: use lower-case letters, digits, - and _, at most 64")
    with contextlib.nullcontext(params.resolve().parent) if dry_run else editing(params) as project:
        folder = LineFolder.of(project, line.name)
        if not dry_run:
            settle(params, line.name)
        _refuse_taken(params, line, folder, force)
        entry = _Entry(params, params.read_text(encoding="utf-8"), line, _settings(line, project), {})
        entry.config()  # a wrong setting is told before anything is read
        source = open_source(line.source, line.layout, line.category)
        if not line.copy and source.to_import:
            raise UserError(
                f"{source.place}: {len(source.to_import)} images or masks are not files of that folder, the first is "
                f"that of {source.to_import[0].path}; they have to be copied, leave --reference out"
            )
        if line.copy and (inside := files_inside(source, folder.images)):
            raise UserError(
                f"{source.place}: {name_files(inside)} lie in the folder {folder.images}, which the copies would "
                "replace; move them elsewhere first, or use them where they are with --reference"
            )
        path = relative_to_project(folder.images if line.copy else source.root, project)
        entry = _Entry(params, entry.text, line, {**entry.data, "path": path}, _rules(line, source))
        if dry_run:
            return AddedLine(entry_text(entry.text_with(), line.name), _preview(entry.config(), source), folder.catalog)
        return _add(entry, folder, source)


def _refuse_taken(params: Path, line: NewLine, folder: LineFolder, force: bool) -> None:
    if line.name in load_params(params)["lines"] and not force:
        raise UserError(f"{params}: line `{line.name}` is already there; choose another name or pass --force")
    if not line.copy or force or not _has_content(folder.images):
        return
    if folder.catalog.is_file():
        raise UserError(
            f"{folder.path}: holds the images of an earlier line; choose another name, or pass --force to replace them"
        )
    raise UserError(
        f"{folder.images}: holds files already; move them away, choose another name, or pass --force to replace them"
    )


def _has_content(folder: Path) -> bool:
    """Whether there is anything but an empty folder."""
    return os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))


def _settings(line: NewLine, project: Path) -> dict[str, Any]:
    group_file = None if line.group_file is None else relative_to_project(line.group_file, project)
    return {
        "path": ".",
        "format": line.layout,
        "category": line.category,
        "license": line.license,
        "catalog": None,
        "catalog_sha256": None,
        "group_pattern": line.group_pattern,
        "group_file": group_file,
    }


def _rules(line: NewLine, source: Source) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    anomalous = any(record.label for record in source.scan.records)
    if not find_adapter(line.layout).masks or (anomalous and not source.has_masks):
        rules["require_masks"] = False
    if line.quarantine:
        rules["unusable"] = "quarantine"
    return rules


def _preview(config: LineConfig, source: Source) -> ImportReport:
    here = source.only([record for record in source.scan.records if not in_s3(record)])
    unread = len(source.scan.records) - len(here.scan.records)
    with readable(here) as (root, scan):
        return ImportReport.of(inspect_scan(config, root, scan), local_bytes(here), unread)


def _add(entry: _Entry, folder: LineFolder, source: Source) -> AddedLine:
    line, config = entry.line, entry.config()
    facts = FactStore(source.root)
    with importing(folder.path, line.name) as importer:
        source = importer.localise(source)
        with readable(source) as (root, scan):
            inspection = inspect_scan(config, root, scan, None if source.to_import else facts)
        rows, left_out = _usable(config, source, inspection, line.quarantine)
        report = ImportReport.of(inspection, local_bytes(source))
        if line.copy:
            rows = importer.take(rows, source)
        catalog = Catalog.of(catalog_row(row, 0) for row in rows)
        stored = None if line.source is None else relative_to_project(line.source, config.root)
        mode: Mode = "copy" if line.copy else "reference"
        info = LineInfo(mode, (Import(0, stored, line.layout, line.category),))
        path = relative_to_project(folder.catalog, config.root)
        text = entry.text_with(catalog=path, catalog_sha256=catalog.digest())
        coming = (config.data.path, catalog.digest())
        with replacing(entry.params, folder, coming, importer.folder if line.copy else None) as replacement:
            if line.copy:
                importer.publish(folder.images, replacement.aside)
            write_quarantine(folder.quarantine, left_out)
            info.write(folder.imports)
            tracked, problem = track_images(folder) if line.copy else (None, "")
            catalog.stage(folder.catalog)
            write_params(entry.params, text)
            publish(folder.catalog, catalog.digest())
        importer.finish()
    if not source.to_import:
        facts.file = (source_store if line.copy else images_store)(config)
        facts.save()
    commit = (entry.params, *folder.to_commit())
    return AddedLine(entry_text(text, line.name), report, folder.catalog, commit, tracked, problem)


def _usable(
    config: LineConfig, source: Source, inspection: Inspection, quarantine: bool
) -> tuple[list[Inspected], list[Inspected]]:
    """The rows that can be used and those that are left out."""
    bad = [row for row in inspection.rows if reason(row)]
    if bad and not quarantine:
        named = name_files([f"{row.path} ({reason(row)})" for row in bad])
        raise UserError(
            f"{source.place}: unusable images, {len(bad)} in all: {named}; repair them, or leave them out with "
            "--quarantine"
        )
    allowed = config.validate_.max_quarantined
    if len(bad) > allowed * len(inspection.rows):
        raise UserError(
            f"{source.place}: {len(bad)} of {len(inspection.rows)} images are unusable, `validate.max_quarantined` = "
            f"{allowed} allows fewer; repair them, or raise it in the defaults or the profile"
        )
    good = [row for row in inspection.rows if not reason(row)]
    if not any(row.split != "test" for row in good):
        raise UserError(
            f"{source.place}: no good training image can be used; {name_files([reason(row) for row in bad])}"
        )
    return good, bad
