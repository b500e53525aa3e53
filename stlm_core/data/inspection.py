"""Every image and mask of a line decoded once: facts for the manifest, problems for the validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from stlm_core.config import LineConfig
from stlm_core.data.adapters import Record, find_adapter
from stlm_core.data.groups import GroupFinder, group_finder
from stlm_core.data.images import probe_image, read_mask
from stlm_core.data.splits import assign_splits
from stlm_core.errors import UserError
from stlm_core.progress import track

Item = TypeVar("Item")
Found = TypeVar("Found")
_BATCH = 512  # files handed to the workers at a time: bounds the queue, not the speed


@dataclass(frozen=True, slots=True)
class Inspected:
    """A manifest row to be, with what is wrong with it.

    ``problem`` is empty for an image that can be used, ``mask_problem`` for one whose mask fits or is not needed.
    With a ``problem`` the facts (``sha256``, ``bytes``, ``width``, ``height``, ``mode``) may be empty.
    """

    path: str
    split: str
    label: int
    defect_type: str
    mask_path: str
    group: str
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    mode: str = ""
    problem: str = ""
    mask_problem: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Rows sorted by path, the folder their paths start from, and how many files were passed over, by reason."""

    root: Path
    rows: tuple[Inspected, ...]
    ignored: Mapping[str, int]


def inspect_line(config: LineConfig) -> Inspection:
    """Scan the line's folder, decode every image and mask, and divide the good training images.

    Decoding and hashing release the interpreter lock, so threads use all cores; memory is bounded by one image
    per thread.

    Raises:
        UserError: the folder is missing or is not in the configured layout. Problems of single files are
            returned, not raised.
    """
    data = config.data
    root = config.resolve(data.path)
    scan = find_adapter(data.format).scan(root)
    group_of = group_finder(config)

    def inspect(record: Record) -> Inspected:
        return _inspect(root, record, group_of, masks=config.validate_.require_masks, max_pixels=data.max_pixels)

    found = _parallel(inspect, scan.records)
    rows = list(track(found, f"{config.name}: reading images", len(scan.records)))
    learn = [index for index, row in enumerate(rows) if row.split == "train" and not row.problem]
    splits = assign_splits(
        [rows[index].sha256 for index in learn],
        [rows[index].group for index in learn],
        validation_fraction=data.validation_fraction,
        calibration_fraction=data.calibration_fraction,
        seed=data.seed,
    )
    for index, split in zip(learn, splits, strict=True):
        rows[index] = replace(rows[index], split=split)
    return Inspection(root, tuple(rows), scan.ignored)


def name_files(files: Sequence[str], limit: int = 10) -> str:
    """The first ``limit`` names and how many more there are."""
    more = f" and {len(files) - limit} more" if len(files) > limit else ""
    return ", ".join(files[:limit]) + more


def _parallel(function: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """``map`` on threads, in order, with a bounded queue."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(items), _BATCH):
            batch: Iterable[Item] = items[start : start + _BATCH]
            yield from pool.map(function, batch)


def _inspect(root: Path, record: Record, group_of: GroupFinder, *, masks: bool, max_pixels: int) -> Inspected:
    row = Inspected(
        record.path, record.split, record.label, record.defect_type, record.mask_path, "", problem=record.problem
    )
    if row.problem:
        return row
    path = root / record.path
    group = group_of(record.path)
    if group is None:
        return replace(row, problem="`data.group_pattern` or `data.group_file` gives it no group")
    row = replace(row, group=group)
    try:
        facts = probe_image(path, max_pixels)
    except UserError as error:
        return replace(row, problem=_without_path(error, path))
    row = replace(row, sha256=facts.sha256, bytes=facts.bytes, width=facts.width, height=facts.height, mode=facts.mode)
    return replace(row, mask_problem=_mask_problem(root, row, masks, max_pixels)) if record.label else row


def _mask_problem(root: Path, row: Inspected, required: bool, max_pixels: int) -> str:
    if not row.mask_path:
        return "no mask" if required else ""
    path = root / row.mask_path
    try:
        mask = read_mask(path, (row.height, row.width), max_pixels=max_pixels)
    except UserError as error:
        return f"{row.mask_path}: {_without_path(error, path)}"
    return "" if mask.any() else f"{row.mask_path}: no pixel of the mask is above 0"


def _without_path(error: UserError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
