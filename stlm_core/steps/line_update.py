"""``stlm lines update``: new images of a line in, its test set as it was, a word on whether to train again."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stlm_core.data.adapters import Record
from stlm_core.data.catalog import Catalog, CatalogRow, publish
from stlm_core.data.inspection import Inspected, inspect_scan
from stlm_core.errors import UserError
from stlm_core.steps.line_existing import ExistingLine, batch_folder, remembered
from stlm_core.steps.line_files import (
    Import,
    catalog_row,
    reason,
    source_store,
    track_images,
)
from stlm_core.steps.line_groups import config_to_read, in_names_of_line
from stlm_core.steps.line_import import Importer, importing, readable
from stlm_core.steps.line_news import LeftOut, News, choose_news
from stlm_core.steps.line_replacement import settle
from stlm_core.steps.line_source import Source, in_s3, open_source
from stlm_core.steps.line_unusable import add_to_quarantine, read_quarantine, refusal
from stlm_core.steps.params_file import editing, relative_to_project, with_entry, write_params
from stlm_core.steps.retraining import Retraining, judge
from stlm_core.steps.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Update:
    """What to look at and what may change.

    ``source`` and ``layout``: None for those that the line was added from. ``extend_test`` adds test images, after
    which metrics cannot be compared with earlier ones; ``drop_missing`` takes out training images of a referenced
    folder that are gone or changed.
    """

    source: Path | None = None
    layout: str | None = None
    category: str | None = None
    extend_test: bool = False
    drop_missing: bool = False


@dataclass(frozen=True, slots=True)
class UpdatedLine:
    """What an update did, or with ``dry_run`` would do. ``batch``: None when nothing changed.

    ``known``: images of the source that were there already; ``train`` and ``test``: images that joined; ``dropped``:
    training images taken out; ``new_groups``: physical parts not seen before; ``catalog_sha256``: the data's version.
    ``unread``: images in S3 that a dry run does not fetch. ``refusal``: why the update would be refused, of a dry run.
    """

    line: str
    dry_run: bool
    batch: int | None
    known: int
    train: int
    test: int
    dropped: tuple[str, ...]
    new_groups: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    unread: int
    catalog_sha256: str
    retraining: Retraining
    to_commit: tuple[Path, ...] = ()
    tracked: Path | None = None
    tracking_problem: str = ""
    refusal: str = ""

    def to_json(self) -> dict[str, Any]:
        """For a scheduler: everything, with paths as text."""
        found = asdict(self)
        found["to_commit"] = [str(path) for path in self.to_commit]
        found["tracked"] = None if self.tracked is None else str(self.tracked)
        found["left_out_by_kind"] = dict(sorted(Counter(each.kind for each in self.left_out).items()))
        return found


def update_line(params: Path, name: str, update: Update, outputs: Path, *, dry_run: bool = False) -> UpdatedLine:
    """Append the new images of a dataset to a line as one batch.

    Files that cannot be used refuse the update where ``validate.unusable`` is ``fail``. With ``quarantine`` they are
    listed in the line's ``quarantine.csv``, unless they are more than the share ``validate.max_quarantined`` of what is
    new; those that are listed already and come from the same source do not count again.

    New is what has other bytes than every image of the line. Rows of the test set never change. Left out, each with
    its reason: files that cannot be used, copies of catalogued images, images that changed under their name, test
    images (unless ``update.extend_test``), and training images of the same physical part or photograph as a test image.

    ``params`` is written last, so a killed call leaves the line as it was or as it should become, and it can be
    repeated. A dry run writes nothing. ``outputs``: folder of the steps' outputs, to judge whether training is due.

    Raises:
        UserError: no such line or dataset; unusable files, see above; a catalogued image is missing or changed (in a
            referenced folder, see ``update.drop_missing``); files cannot be read, fetched or copied. The line is then
            as it was.
    """
    with contextlib.nullcontext() if dry_run else editing(params):
        if not dry_run:
            settle(params, name)
        line = ExistingLine.open(params, name)
        if not dry_run:
            publish(line.catalog_path, line.catalog.digest())  # what a killed update may have left to do
        place, origin = _origin(line, update)
        source = open_source(place, origin.format, origin.category)
        present, dropped = line.present(update.drop_missing, dry_run)
        catalog = Catalog.of(row for row in line.catalog.rows if row.path not in dropped)
        line = replace(line, catalog=catalog)
        with contextlib.nullcontext() if dry_run else importing(line.folder.path, name) as importer:
            return _update(line, source, origin, present, dropped, update, outputs, importer)


def _origin(line: ExistingLine, update: Update) -> tuple[Path | None, Import]:
    """Where to look, and how to describe it in ``line.json``.

    Raises:
        UserError: a line whose images are used where they are cannot have them elsewhere or in another format.
    """
    first, config = line.info.imports[0], line.config
    if update.source is None:
        place = None if first.source is None else config.root / first.source
        stored = first.source
    else:
        place, stored = update.source, relative_to_project(update.source, config.root)
    layout = update.layout or first.format
    if not line.copied:
        images = config.resolve(config.data.path)
        if update.source is not None and images not in (update.source.resolve(), update.source.resolve().parent):
            raise UserError(
                f"{update.source}: line `{config.name}` uses its images where they are; put the new ones into "
                f"{config.data.path}, or copy the line with `stlm lines add {config.name} --force`"
            )
        if layout != first.format:
            raise UserError(f"--format {layout}: the line uses its images where they are, in format {first.format}")
    same = stored == first.source and layout == first.format
    category = update.category or (first.category if same else None)
    return place, Import(line.next_batch(), stored, layout, category)


def _update(
    line: ExistingLine,
    source: Source,
    origin: Import,
    present: list[Inspected],
    dropped: frozenset[str],
    update: Update,
    outputs: Path,
    importer: Importer | None,
) -> UpdatedLine:
    config = line.config
    names = line.names(origin)
    source, known, unread = _to_read(line, source, names, importer)
    with readable(source) as (root, scan):
        facts = None if source.to_import else remembered(root, source_store(config), importer is None)
        rows = inspect_scan(config_to_read(line, origin), root, scan, facts).rows
    found = in_names_of_line(line, origin, rows, present, names)
    news = choose_news(config, line.catalog.rows, present, found, names, extend_test=update.extend_test)
    news.known += known
    joining = [*news.train, *news.test]
    bad = _newly_unusable(line, origin, found, extend_test=update.extend_test)
    refused = refusal(config.validate_, bad, len(joining))
    if refused and importer is not None:
        raise UserError(f"{source.place}: {refused}")
    if importer is not None and line.copied and joining:
        joining = importer.take(joining, source)
    prefix = f"{batch_folder(origin.batch)}/" if line.copied else ""
    catalog = Catalog.of((*line.catalog.rows, *(catalog_row(row, origin.batch, prefix) for row in joining)))
    workspace = Workspace(outputs.resolve(), config.name)
    retraining = judge(config, workspace, catalog.rows, news.train)
    done = _report(line, news, catalog, dropped, origin, unread, retraining)
    if importer is None:
        return replace(done, dry_run=True, refusal=refused)
    add_to_quarantine(line.folder.quarantine, [replace(row, path=prefix + row.path) for row in bad])
    if done.batch is None:
        importer.finish()
        return done
    if line.copied and joining:
        importer.publish(line.folder.images / batch_folder(origin.batch))
    if joining:
        line.info.with_import(origin).write(line.folder.imports)
    tracked, problem = track_images(line.folder) if line.copied else (None, "")
    catalog.stage(line.catalog_path)
    before = line.params.read_text(encoding="utf-8")
    text = with_entry(line.params, before, config.name, None, {"catalog_sha256": catalog.digest()})
    write_params(line.params, text)
    publish(line.catalog_path, catalog.digest())
    importer.finish()
    commit = (line.params, *line.folder.to_commit())
    return replace(done, to_commit=commit, tracked=tracked, tracking_problem=problem)


def _to_read(
    line: ExistingLine, source: Source, names: dict[str, CatalogRow], importer: Importer | None
) -> tuple[Source, int, int]:
    """What of the source has to be looked at, how many images need not be, and how many cannot be in a dry run.

    An object in S3 under a catalogued name is not fetched again, nor is a file of the line's own folder read twice.
    """
    records: list[Record] = []
    known = unread = 0
    for record in source.scan.records:
        if record.path in names and (in_s3(record) or not line.copied):
            known += 1
        elif importer is None and in_s3(record):
            unread += 1
        else:
            records.append(record)
    rest = source.only(records)
    return (rest if importer is None else importer.localise(rest)), known, unread


def _newly_unusable(
    line: ExistingLine, origin: Import, found: Sequence[Inspected], *, extend_test: bool
) -> list[Inspected]:
    """The unusable images that could have joined and are not in the line's list from an earlier look at the source."""
    listed = {row.path for row in read_quarantine(line.folder.quarantine)}
    prefixes = line.prefixes(origin).values()
    return [
        row
        for row in found
        if reason(row)
        and (row.split != "test" or extend_test)
        and not any(prefix + row.path in listed for prefix in prefixes)
    ]


def _report(
    line: ExistingLine,
    news: News,
    catalog: Catalog,
    dropped: frozenset[str],
    origin: Import,
    unread: int,
    retraining: Retraining,
) -> UpdatedLine:
    groups = {row.group for row in line.catalog.rows}
    joining: Sequence[Inspected] = (*news.train, *news.test)
    return UpdatedLine(
        line=line.config.name,
        dry_run=False,
        batch=origin.batch if joining or dropped else None,
        known=news.known,
        train=len(news.train),
        test=len(news.test),
        dropped=tuple(sorted(dropped)),
        new_groups=tuple(sorted({row.group for row in joining if row.group} - groups)),
        left_out=tuple(news.left_out),
        unread=unread,
        catalog_sha256=catalog.digest(),
        retraining=retraining,
    )
