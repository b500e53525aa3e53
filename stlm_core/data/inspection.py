"""Every image and mask of a line looked at: facts for the manifest, problems for the validation."""

from __future__ import annotations

import builtins
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2

from stlm_core.config import LineConfig
from stlm_core.data.adapters import Record, Scan
from stlm_core.data.adapters.base import with_problem
from stlm_core.data.catalog import Catalog, CatalogRow, open_catalog, scan_folder
from stlm_core.data.facts import FactStore
from stlm_core.data.groups import GroupFinder, group_finder
from stlm_core.data.splits import assign_splits
from stlm_core.errors import UserError
from stlm_core.progress import track

Item = TypeVar("Item")
Found = TypeVar("Found")
_CHANGED = (
    "its bytes have changed since it was catalogued; get the file back, or add the new one with `stlm lines update`"
)
_TASK = 32  # files a worker takes at a time: handing over costs more than looking at an unchanged file


@dataclass(frozen=True, slots=True)
class Inspected:
    """A manifest row to be, with what is wrong with it.

    ``problem`` is empty for an image that can be used, ``mask_problem`` for one whose mask fits or is not needed.
    With a ``problem`` the facts may be empty; they are those of :class:`stlm_core.data.probe.ImageFacts`.
    ``mask_sha256`` is empty without a mask or with a ``mask_problem``, ``mask_share`` is the share of the image
    that its mask marks, 0..1.
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
    mask_sha256: str = ""
    phash: str = ""
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    saturated: float = 0.0
    thumbnail: builtins.bytes = b""
    mask_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Inspection:
    """Rows sorted by path, the folder their paths start from, and how many files were passed over, by reason."""

    root: Path
    rows: tuple[Inspected, ...]
    ignored: Mapping[str, int]

    def digest(self) -> str:
        """sha256 of everything that was found, wherever the images lie: equal for equal images, roles and problems."""
        digest = hashlib.sha256(repr(sorted(self.ignored.items())).encode())
        for row in self.rows:
            found = (
                row.path,
                row.split,
                row.label,
                row.defect_type,
                row.mask_path,
                row.group,
                row.sha256,
                row.mask_sha256,
                row.problem,
                row.mask_problem,
            )
            digest.update(repr(found).encode())
        return digest.hexdigest()


def inspect_line(config: LineConfig) -> Inspection:
    """Inspect the images of the line's catalogue, or without one those that its folder holds now.

    Files that have not changed since the last time are not read again, see :class:`FactStore`. A file whose sha256 is
    not the catalogued one has a problem, and so has an image that a table or drawing describes where there is no
    catalogue.

    Raises:
        UserError: the folder is missing or is not in the configured layout, or the catalogue cannot be read. Problems
            of single files are returned, not raised.
    """
    root = config.resolve(config.data.path)
    catalog = open_catalog(config)
    if catalog is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder; `stlm data pull --line {config.name}` brings the line's images back")
    scan = scan_folder(config) if catalog is None else catalog.scan()
    reason = "can only be imported; use `stlm lines add` without --reference"
    records = tuple(with_problem(record, reason) if record.must_be_imported else record for record in scan.records)
    return inspect_scan(config, root, Scan(records, scan.ignored), FactStore.of_line(config, root), catalog)


def inspect_scan(
    config: LineConfig, root: Path, scan: Scan, facts: FactStore | None = None, catalog: Catalog | None = None
) -> Inspection:
    """Read every image and mask of ``scan`` under ``root`` by the line's rules, and divide the good training images.

    Decoding and hashing release the interpreter lock, so threads use all cores; memory is bounded by one image a
    thread and the rows. ``facts``: what is known of the files; None to read them all. ``catalog``: what their bytes
    must be.

    Raises:
        UserError: the line's groups cannot be read. Problems of single files are returned, not raised.
    """
    store = FactStore(root) if facts is None else facts
    inspector = _Inspector(config, store, catalog)
    done = False
    try:
        with _one_opencv_thread():
            found = _parallel(inspector.inspect, scan.records)
            rows = list(track(found, f"{config.name}: reading images", len(scan.records)))
        done = True
    finally:
        store.save(complete=done)
    _divide(config, rows)
    return Inspection(root, tuple(rows), scan.ignored)


def name_files(files: Sequence[str], limit: int = 10) -> str:
    """The first ``limit`` names and how many more there are."""
    more = f" and {len(files) - limit} more" if len(files) > limit else ""
    return ", ".join(files[:limit]) + more


class _Inspector:
    """From a record to a row. Used by several threads at once."""

    def __init__(self, config: LineConfig, facts: FactStore, catalog: Catalog | None) -> None:
        self.facts = facts
        self.max_pixels = config.data.max_pixels
        self.require_masks = config.validate_.require_masks
        # A catalogue keeps the groups that were found where the images came from; their paths were other ones there.
        self.group_of = _group_of(config) if catalog is None else lambda record: record.group
        self.catalogued: dict[str, CatalogRow] | None = None
        if catalog is not None:
            self.catalogued = {row.path: row for row in catalog.rows}

    def inspect(self, record: Record) -> Inspected:
        row = Inspected(
            record.path, record.split, record.label, record.defect_type, record.mask_path, "", problem=record.problem
        )
        if row.problem:
            return row
        group = self.group_of(record)
        if group is None:
            return replace(row, problem="`data.group_pattern` or `data.group_file` gives it no group")
        try:
            facts = self.facts.image(record.path, self.max_pixels)
        except UserError as error:
            return replace(row, group=group, problem=self._without_path(error, record.path))
        expected = self.catalogued[record.path] if self.catalogued is not None else None
        mask_sha256, mask_share, mask_problem = self._mask(record, (facts.height, facts.width), expected)
        return Inspected(
            record.path,
            record.split,
            record.label,
            record.defect_type,
            record.mask_path,
            group,
            facts.sha256,
            facts.bytes,
            facts.width,
            facts.height,
            facts.mode,
            "" if expected is None or facts.sha256 == expected.sha256 else _CHANGED,
            mask_problem,
            mask_sha256,
            facts.phash,
            facts.brightness,
            facts.contrast,
            facts.sharpness,
            facts.saturated,
            facts.thumbnail,
            mask_share,
        )

    def _mask(
        self, record: Record, expected_hw: tuple[int, int], expected: CatalogRow | None
    ) -> tuple[str, float, str]:
        """sha256, share of marked pixels, and problem of the record's mask."""
        name = record.mask_path
        if not name:
            return "", 0.0, "no mask" if record.label and self.require_masks else ""
        try:
            facts = self.facts.mask(name, expected_hw, self.max_pixels)
        except UserError as error:
            return "", 0.0, f"{name}: {self._without_path(error, name)}"
        if expected is not None and facts.sha256 != expected.mask_sha256:
            return facts.sha256, facts.marked, f"{name}: {_CHANGED}"
        if record.label and not facts.marked:
            return facts.sha256, facts.marked, f"{name}: no pixel of the mask is above 0"
        if not record.label and facts.marked:
            return facts.sha256, facts.marked, f"{name}: the mask of a good image has pixels above 0"
        return facts.sha256, facts.marked, ""

    def _without_path(self, error: UserError, name: str) -> str:
        return str(error).removeprefix(f"{self.facts.root / name}: ")


def _group_of(config: LineConfig) -> Callable[[Record], str | None]:
    """The line's own groups where the settings have them, else those that came with the images."""
    if config.data.group_pattern is None and config.data.group_file is None:
        return lambda record: record.group
    find: GroupFinder = group_finder(config)
    return lambda record: find(record.path)


def _divide(config: LineConfig, rows: list[Inspected]) -> None:
    """Give the usable training images in ``rows`` their splits."""
    learn = [index for index, row in enumerate(rows) if row.split == "train" and not row.problem]
    splits = assign_splits(
        [rows[index].sha256 for index in learn],
        [rows[index].group for index in learn],
        validation_fraction=config.data.validation_fraction,
        calibration_fraction=config.data.calibration_fraction,
        seed=config.data.seed,
    )
    for index, split in zip(learn, splits, strict=True):
        if split != "train":
            rows[index] = replace(rows[index], split=split)


def _parallel(function: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """``map`` on threads, in order, with a bounded queue."""

    def run(start: int) -> list[Found]:
        return [function(item) for item in items[start : start + _TASK]]

    workers = os.cpu_count() or 1
    waiting: deque[Future[list[Found]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in range(0, len(items), _TASK):
                waiting.append(pool.submit(run, start))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for task in waiting:
                task.cancel()


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """OpenCV would start a thread for every core in each of the workers."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
