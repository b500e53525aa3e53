"""COCO-style annotations: images, categories, and polygons or run lengths, in JSON files."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from stlm_core.data.adapters.base import (
    Ignored,
    Record,
    Scan,
    count_unused,
    existing_folder,
    finish_scan,
    is_hidden,
    no_category,
    path_problem,
    printable,
)
from stlm_core.data.adapters.coco_file import CocoImage, read_coco
from stlm_core.data.adapters.coco_masks import CocoMask
from stlm_core.data.adapters.held_out import held_out
from stlm_core.data.adapters.layouts import wrong_layout
from stlm_core.data.adapters.mvtec import GOOD
from stlm_core.errors import UserError

Side = Literal["train", "test"]
# The first of these patterns that has files names them all.
_FILES = ("annotations.json", "annotations/*.json", "instances_*.json", "*/_annotations.coco.json")
_SIDES: dict[str, Side] = {"train": "train", "test": "test", "val": "test"}


class CocoAdapter:
    """COCO-style annotations of one product. Images are in ``images``, in ``images/<split>`` or ``<split>`` (of
    ``instances_<split>.json``), beside their JSON file, or in the folder itself.

    An image without annotations is good. Of any other, the mask is the union of its annotations, and the defect type
    the category of the largest. With several files, those named ``*train*`` are for training and those named ``*test*``
    or ``*val*`` for the test; annotated images of a training file are passed over and counted. A single file, whatever
    its name, is no split: all annotated images are for the test, and 20 % of the good ones by a hash of their path.
    """

    summary: ClassVar[str] = "COCO-style JSON (annotations.json, instances_*.json) with polygons or run lengths"
    masks: ClassVar[bool] = True

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        no_category(root, category)
        files = _annotation_files(root)
        if not files:
            raise wrong_layout(root, f"no {' or '.join(_FILES)}", "coco")
        records: dict[str, Record] = {}
        for file in files:
            side = _side(root, file) if len(files) > 1 else None
            for image in read_coco(root / file):
                record = _record(root, _find(root, file, image.file_name), image, side)
                if record.path in records:
                    raise UserError(f"{root / file}: image {record.path} is listed already")
                records[record.path] = record
        ignored = Ignored()
        count_unused(root, root, records.keys(), ignored)
        kept = [record for record in records.values() if record.split == "test" or not record.label]
        if len(kept) < len(records):
            ignored["defective, in a training file"] = len(records) - len(kept)
        return finish_scan(root, _with_mask_paths(kept), ignored)


def _annotation_files(root: Path) -> list[str]:
    for pattern in _FILES:
        found = [path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file()]
        visible = sorted(name for name in found if not is_hidden(PurePosixPath(name).name))
        if visible:
            return visible
    return []


def _side(root: Path, file: str) -> Side:
    """Split that the name of an annotation file stands for, or that of its folder."""
    path = PurePosixPath(file)
    named = path.parent.name if path.name.startswith("_") else path.stem
    sides = {_SIDES[word] for word in re.findall("|".join(_SIDES), named.lower())}
    if len(sides) != 1:
        raise UserError(f"{root / file}: one of several files, so its name must say train, test or val")
    return sides.pop()


def _find(root: Path, file: str, name: str) -> str:
    """Path of the image called ``name``, posix, relative to ``root``; it may not exist."""
    split = PurePosixPath(file).stem.removeprefix("instances_")
    folders = (f"images/{split}", split, "images", str(PurePosixPath(file).parent), ".")
    paths = [PurePosixPath(folder, name).as_posix() for folder in folders]
    return next((path for path in paths if os.path.lexists(root / path)), paths[2])


def _record(root: Path, path: str, image: CocoImage, side: Side | None) -> Record:
    problem = path_problem(root, path)
    path = printable(path)
    if not image.annotations:
        learn = side == "train" if side else not held_out(path)
        return Record(path, "train" if learn else "test", 0, GOOD, problem=problem)
    largest = max(image.annotations, key=lambda annotation: annotation.area())
    problem = problem or next((found.problem for found in image.annotations if found.problem), "")
    record = Record(path, side or "test", 1, largest.category, problem=problem)
    if problem:
        return record
    shapes = tuple(shape for annotation in image.annotations for shape in annotation.shapes)
    return replace(record, mask_shape=CocoMask(image.width, image.height, shapes))


def _with_mask_paths(records: Collection[Record]) -> list[Record]:
    """``records`` with the places their masks are to be drawn to: a folder that holds no image."""
    folder = "masks"
    while any(record.path.startswith(f"{folder}/") for record in records):
        folder += "_"
    return [
        replace(record, mask_path=f"{folder}/{record.path}.png") if record.mask_shape else record for record in records
    ]
