"""The magnetic tile dataset, the authors' ``MT_<type>/Imgs`` or in MVTec's layout; split by physical tile."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from stlm_core.data.adapters.base import (
    Ignored,
    Record,
    Scan,
    existing_folder,
    finish_scan,
    folders,
    list_images,
    name_key,
    no_category,
    printable,
    with_problem,
)
from stlm_core.data.adapters.held_out import held_out
from stlm_core.data.adapters.layouts import wrong_layout
from stlm_core.data.adapters.masks import Stems
from stlm_core.data.adapters.mvtec import GOOD, MvtecAdapter
from stlm_core.data.adapters.tile_groups import frame, tile_groups
from stlm_core.data.images import image_size
from stlm_core.errors import UserError

_FREE = "Free"
UNKNOWN_TILE = "its name is not exp<exposure>_num_<number>, so the tile it shows is unknown"


class MagneticTileAdapter:
    """Magnetic tile (Huang et al.). The same tile was taken at up to six exposures, so every record has its tile's name
    as ``group``; how tiles are told apart is in :mod:`stlm_core.data.adapters.tile_groups`.

    The authors give no split. Here the test split holds all defective images, the good images of tiles that have a
    defective one, and those of 20 % of the other tiles. A folder with ``train/good`` keeps the split it has, but a
    good training image of a tile that the test split shows too is passed over and counted.
    """

    summary: ClassVar[str] = "magnetic tile: MT_<type>/Imgs/*.jpg with *.png masks, split by physical tile"
    masks: ClassVar[bool] = True

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        no_category(root, category)
        if os.path.isdir(root / f"MT_{_FREE}"):
            ignored = Ignored()
            return finish_scan(root, _split(_grouped(root, _authors_records(root, ignored))), ignored)
        if not os.path.isdir(root / "train" / GOOD):
            raise wrong_layout(root, f"no folder MT_{_FREE}", "magnetic_tile")
        arranged = MvtecAdapter().scan(root)
        if not any(frame(record.path) for record in arranged.records):
            raise wrong_layout(root, "no image is named exp<exposure>_num_<number>", "magnetic_tile")
        ignored = Ignored(arranged.ignored)
        return finish_scan(root, _without_shared_tiles(_grouped(root, arranged.records), ignored), ignored)


def _authors_records(root: Path, ignored: Ignored) -> list[Record]:
    """All images as if for the test."""
    records = []
    for folder in folders(root):
        kind = folder.name.removeprefix("MT_")
        if kind == folder.name:
            count = sum(1 for _ in list_images(root, folder, recursive=True, ignored=ignored))
            ignored.update({"outside the layout": count} if count else {})
            continue
        if not os.path.isdir(folder / "Imgs"):
            raise UserError(f"{folder}: no folder Imgs in it; is the copy of the dataset complete?")
        files = list(list_images(root, folder / "Imgs", ignored=ignored))
        masks = {_stem(path): (path, problem) for path, problem in files if path.lower().endswith(".png")}
        images = [(path, problem) for path, problem in files if not path.lower().endswith(".png")]
        if kind == _FREE:
            ignored.update({"mask of a good image": len(masks)} if masks else {})
            records += [Record(path, "test", 0, GOOD, problem=problem) for path, problem in images]
        else:
            records += _defects(images, masks, printable(kind.lower()))
    return records


def _defects(images: Sequence[tuple[str, str]], masks: dict[str, tuple[str, str]], defect: str) -> list[Record]:
    records = []
    stems = Stems(path for path, _ in images)
    for path, problem in images:
        mask, mask_problem = masks.pop(_stem(path), ("", ""))
        record = stems.unambiguous(Record(path, "test", 1, defect, mask, problem))
        records.append(with_problem(record, f"its mask {mask}: {mask_problem}") if mask_problem else record)
    for path, _ in masks.values():
        wanted = PurePosixPath(path).with_suffix(".jpg")
        records.append(Record(path, "test", 1, defect, problem=f"mask without its image {wanted}"))
    return records


def _grouped(root: Path, records: Sequence[Record]) -> list[Record]:
    """``records`` with their tiles; one whose tile cannot be known gets a problem."""
    problems, sizes = {}, {}
    for record in records:
        if frame(record.path) is None:
            problems[record.path] = UNKNOWN_TILE
        elif not record.problem:
            try:
                sizes[record.path] = image_size(root / record.path)
            except UserError as error:
                problems[record.path] = str(error).removeprefix(f"{root / record.path}: ")
    groups = tile_groups(sizes)
    grouped = [replace(record, group=groups.get(record.path, "")) for record in records]
    return [with_problem(record, problems.get(record.path, "")) for record in grouped]


def _split(records: list[Record]) -> list[Record]:
    defective = {record.group for record in records if record.label}
    return [
        record
        if record.label or record.group in defective or held_out(record.group or record.path)
        else replace(record, split="train")
        for record in records
    ]


def _without_shared_tiles(records: list[Record], ignored: Ignored) -> list[Record]:
    tested = {record.group for record in records if record.split == "test" and record.group}
    kept = [record for record in records if record.split == "test" or record.group not in tested]
    if len(kept) < len(records):
        ignored["good, of a tile that the test split shows too"] = len(records) - len(kept)
    return kept


def _stem(path: str) -> str:
    return name_key(PurePosixPath(path).stem)
