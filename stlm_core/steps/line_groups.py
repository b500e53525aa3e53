"""Which physical part a new image shows, in the names that the line's catalogue has for its parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stlm_core.config import LineConfig
from stlm_core.data.adapters import find_adapter
from stlm_core.data.adapters.magnetic_tile import UNKNOWN_TILE, MagneticTileAdapter
from stlm_core.data.adapters.tile_groups import tile_groups
from stlm_core.data.catalog import CatalogRow
from stlm_core.data.groups import group_finder
from stlm_core.data.inspection import Inspected
from stlm_core.steps.line_existing import ExistingLine, batch_folder
from stlm_core.steps.line_files import Import


def config_to_read(line: ExistingLine, origin: Import) -> LineConfig:
    """The line's settings for looking at the images of ``origin``.

    The table ``data.group_file`` names images of the dataset that the line was added from. Elsewhere the same name is
    another image, so it is not looked up there; see :func:`in_names_of_line`.
    """
    config = line.config
    if not _of_other_source(line, origin):
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"group_file": None})})


def in_names_of_line(
    line: ExistingLine,
    origin: Import,
    found: Sequence[Inspected],
    present: Sequence[Inspected],
    names: Mapping[str, CatalogRow],
) -> list[Inspected]:
    """``found`` in ``origin`` with the parts that they show; an image whose part is not known gets a problem.

    With ``data.group_file``, an image from another source has the part that the table gives to its path in the line,
    ``batch-<number>/...``. Magnetic tiles are told apart by looking at all photographs together and are named after one
    of them, so what a dataset alone says is no name: they are told apart anew with ``present``, the line's images.
    ``names``: rows of the catalogue by their path in ``origin``.

    Raises:
        UserError: ``data.group_file`` cannot be read.
    """
    if line.config.data.group_file is not None:
        return _by_table(line, origin, found, names) if _of_other_source(line, origin) else list(found)
    formats = {origin.format, *(each.format for each in line.info.imports)}
    if line.config.data.group_pattern is None and any(
        isinstance(find_adapter(each), MagneticTileAdapter) for each in formats
    ):
        return _by_tile(found, present)
    return list(found)


def _of_other_source(line: ExistingLine, origin: Import) -> bool:
    return line.copied and line.config.data.group_file is not None and origin.source != line.info.imports[0].source


def _by_table(
    line: ExistingLine, origin: Import, found: Sequence[Inspected], names: Mapping[str, CatalogRow]
) -> list[Inspected]:
    find = group_finder(line.config)
    rows = []
    for row in found:
        path = f"{batch_folder(origin.batch)}/{row.path}"
        group = names[row.path].group if row.path in names else find(path)
        problem = row.problem or ("" if group is not None else f"`data.group_file` gives {path} no group")
        rows.append(replace(row, group=group or "", problem=problem))
    return rows


def _by_tile(found: Sequence[Inspected], present: Sequence[Inspected]) -> list[Inspected]:
    """Of a tile that is catalogued on both sides of the border between training and test, the other side's name counts:
    the image is then left out."""
    tiles = tile_groups(
        {f"{place}/{row.path}": (row.width, row.height) for place, rows in (("new", found), ("line", present))
         for row in rows if not row.problem}
    )  # fmt: skip
    known: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for row in present:
        if row.group and (tile := tiles.get(f"line/{row.path}")):
            known[tile, row.split == "test"].add(row.group)
    rows = []
    for row in found:
        tile = tiles.get(f"new/{row.path}")
        if row.problem or tile is None:
            rows.append(replace(row, problem=row.problem or UNKNOWN_TILE))
            continue
        tested = row.split == "test"
        catalogued = known.get((tile, not tested)) or known.get((tile, tested)) or {tile}
        rows.append(replace(row, group=min(catalogued)))
    return rows
