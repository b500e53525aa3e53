"""A line as it is: its settings, its catalogue, where its images came from, and whether they are all there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stlm_core.config import LineConfig, load_line
from stlm_core.data.catalog import Catalog, CatalogRow, open_catalog
from stlm_core.data.facts import FactStore
from stlm_core.data.inspection import Inspected, inspect_scan, name_files
from stlm_core.errors import UserError
from stlm_core.steps.line_files import Import, LineFolder, LineInfo, images_store, reason


@dataclass(frozen=True)
class ExistingLine:
    """What an update starts from."""

    params: Path
    config: LineConfig
    catalog: Catalog
    catalog_path: Path
    folder: LineFolder
    info: LineInfo

    @classmethod
    def open(cls, params: Path, name: str) -> ExistingLine:
        """The line ``name`` of ``params``.

        Raises:
            UserError: there is none, or it has no catalogue, or a file of it is damaged.
        """
        config = load_line(params, name)
        catalog = open_catalog(config)
        if catalog is None or config.data.catalog is None:
            raise UserError(
                f"{params}: line `{name}` has no catalogue, its folder is read as it is; `stlm lines add {name} --from "
                "FOLDER --force` makes one"
            )
        folder = LineFolder.of(config.root, name)
        return cls(params, config, catalog, config.resolve(config.data.catalog), folder, LineInfo.read(folder.imports))

    @property
    def copied(self) -> bool:
        """Whether the images were copied to the line's folder."""
        return self.info.mode == "copy"

    def next_batch(self) -> int:
        """The number after the last; one whose folder's name an imported image does not have already."""
        batch = 1 + max((row.batch for row in self.catalog.rows), default=0)
        while any(row.path.startswith(f"{batch_folder(batch)}/") for row in self.catalog.rows):
            batch += 1
        return batch

    def names(self, source: Import) -> dict[str, CatalogRow]:
        """Catalogue rows by the path they had in ``source``."""
        batches = self.prefixes(source)
        return {row.path.removeprefix(batches[row.batch]): row for row in self.catalog.rows if row.batch in batches}

    def prefixes(self, source: Import) -> dict[int, str]:
        """What paths in ``source`` begin with in the line, by batch that came from there."""
        return {
            each.batch: f"{batch_folder(each.batch)}/" if each.batch and self.copied else ""
            for each in self.info.imports
            if (each.source, each.format, each.category) == (source.source, source.format, source.category)
        }

    def present(self, drop_missing: bool, dry_run: bool) -> tuple[list[Inspected], frozenset[str]]:
        """The inspected images of the catalogue, and the paths of those to drop.

        Raises:
            UserError: images are missing or not those catalogued, and may not be dropped.
        """
        config = self.config
        root = config.resolve(config.data.path)
        facts = remembered(root, images_store(config), dry_run)
        rows = inspect_scan(config, root, self.catalog.scan(), facts, self.catalog).rows
        bad = [row for row in rows if row.problem or (row.mask_path and row.mask_problem)]
        if not bad:
            return list(rows), frozenset()
        named = name_files([f"{row.path} ({reason(row)})" for row in bad])
        if self.copied:
            raise UserError(
                f"{root}: {len(bad)} catalogued images are missing or changed: {named}; get them back, for example "
                "with `dvc checkout` or `dvc pull`, then run the command again"
            )
        if tests := [row.path for row in bad if row.split == "test"]:
            raise UserError(
                f"{root}: {len(tests)} images of the frozen test set are missing or changed: {name_files(tests)}; put "
                "them back"
            )
        if not drop_missing:
            raise UserError(
                f"{root}: {len(bad)} catalogued images are missing or changed: {named}; put them back, or take them "
                "out of the line with --drop-missing"
            )
        dropped = frozenset(row.path for row in bad)
        return [row for row in rows if row.path not in dropped], dropped


def remembered(root: Path, file: Path, dry_run: bool) -> FactStore:
    """What is remembered of the files under ``root``; a dry run remembers nothing new."""
    store = FactStore(root, file)
    if dry_run:
        store.file = None
    return store


def batch_folder(batch: int) -> str:
    """Name of the folder that an update copies images to."""
    return f"batch-{batch:03d}"
