"""Rendering of the planned views into a bank, in parallel and in bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from stlm_core.data.images import read_image, resize_exactly, resize_to
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.progress import progress
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.bank import FRACTIONS, INDEX, INDEX_COLUMNS, MASKS, VIEWS, ArrayWriter, Bank, fraction_of
from stlm_core.synthesis.mixture import anomaly
from stlm_core.synthesis.packed_textures import TEXTURES, pack_textures
from stlm_core.synthesis.plan import PlannedImage, SourceImage, plan_views
from stlm_core.synthesis.pose import LOOKED_AT, Pose, find_pose, in_proportion
from stlm_core.synthesis.rotation import rotate
from stlm_core.synthesis.textures import TextureSource, held_back

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class RenderedImage:
    """All views of one image: (n, S, S, 3), their masks (n, S, S), and sha256 of each view's bytes."""

    views: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    digests: tuple[str, ...]


def render(
    plan: PlannedImage, original: npt.NDArray[np.uint8], textures: TextureSource, settings: SynthesizeConfig
) -> RenderedImage:
    """Draw the planned views of one image. ``original``: (S, S, 3), the image at the network's size."""
    side = original.shape[0]
    views = np.empty((len(plan.views), side, side, 3), np.uint8)
    masks = np.zeros((len(plan.views), side, side), np.bool_)
    first = plan.views[0].row
    for slot, planned in enumerate(plan.views):
        if planned.variant == 0:
            views[slot] = rotate(original, planned.degrees)
            continue
        clean = views[planned.clean_view - first]
        views[slot], masks[slot] = anomaly(clean, original, textures, np.random.default_rng(planned.seed), settings)
    return RenderedImage(views, masks, tuple(hashlib.sha256(view.data).hexdigest() for view in views))


def build_bank(
    folder: Path,
    root: Path,
    sources: Sequence[SourceImage],
    textures: TextureSource,
    settings: SynthesizeConfig,
    *,
    size: int,
    max_pixels: int,
    workers: int | None = None,
) -> Bank:
    """Write the bank of ``sources`` (files under ``root``) into ``folder``, ``size`` pixels a side, and open it.

    The result does not depend on ``workers`` (default: one thread a core; OpenCV and Pillow release the interpreter
    lock). With ``settings.fresh`` the textures are divided between the training steps, for which they are packed, and
    the validation images. At most ``2 * workers`` images and their views are in memory at once, whatever the number of
    images.

    Raises:
        UserError: no image is given, one is unreadable or has changed since it was validated, or a texture is
            unreadable.
    """
    if not sources:
        raise UserError(f"{root}: no good training or validation images; see the validate step's report")

    def photograph(source: SourceImage) -> npt.NDArray[np.uint8]:
        path = root / source.path
        if sha256_file(path) != source.sha256:
            raise UserError(f"{path}: has changed since it was validated; run `stlm validate` again")
        return read_image(path, max_pixels)

    def as_it_lies(source: SourceImage) -> npt.NDArray[np.uint8]:
        return in_proportion(photograph(source), size)

    workers = workers or len(os.sched_getaffinity(0))
    with _opencv_threads(1):
        pose = Pose(settings.rotation) if settings.rotation != "auto" else _found_pose(sources, as_it_lies, workers)
    pose.write(folder)
    plans = plan_views(sources, settings, pose.policy)
    for_training: TextureSource | None = None
    if settings.fresh:
        for_training, textures = held_back(textures)
    pack_textures(folder / TEXTURES, for_training, size)
    total = sum(len(plan.views) for plan in plans)

    def work(plan: PlannedImage) -> tuple[RenderedImage, npt.NDArray[np.uint8]]:
        image = photograph(plan.source)
        rounded = resize_to(image, size)
        return render(plan, rounded, textures, settings), fraction_of(resize_exactly(image, size), rounded)

    rows: list[dict[str, object]] = []
    with (
        ArrayWriter(folder / VIEWS, (total, size, size, 3)) as views,
        ArrayWriter(folder / MASKS, (total, size, (size + 7) // 8)) as masks,
        ArrayWriter(folder / FRACTIONS, (len(plans), size, size, 3)) as fractions,
        _opencv_threads(1),
        progress("synthesize", total) as shown,
    ):
        for plan, (rendered, fraction) in zip(plans, _ordered_map(work, plans, workers), strict=True):
            fractions.append(fraction[None])
            views.append(rendered.views)
            masks.append(np.packbits(rendered.masks, axis=-1))
            rows.extend(_index_rows(plan, rendered))
            shown.advance(len(plan.views))
    index = pd.DataFrame(rows, columns=list(INDEX_COLUMNS)).astype(INDEX_COLUMNS)
    index.to_parquet(folder / INDEX, index=False)
    return Bank.open(folder)


def _found_pose(
    sources: Sequence[SourceImage], as_it_lies: Callable[[SourceImage], npt.NDArray[np.uint8]], workers: int
) -> Pose:
    """By at most 64 of the images, chosen by their hashes: names often count views."""
    some = sorted(sources, key=lambda source: source.sha256)[:LOOKED_AT]
    return find_pose(_ordered_map(as_it_lies, some, workers))


def _index_rows(plan: PlannedImage, rendered: RenderedImage) -> Iterator[dict[str, object]]:
    for slot, planned in enumerate(plan.views):
        yield {
            "view": planned.row,
            "image": plan.source.sha256,
            "path": plan.source.path,
            "split": plan.source.split,
            "variant": planned.variant,
            "clean_view": planned.clean_view,
            "mask_fraction": float(rendered.masks[slot].mean()),
            "seed": planned.seed,
            "degrees": planned.degrees,
            "view_sha256": rendered.digests[slot],
        }


def _ordered_map(function: Callable[[_In], _Out], items: Iterable[_In], workers: int) -> Iterator[_Out]:
    """``map`` over a thread pool, in order, never more than two items a worker ahead of the consumer."""
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _opencv_threads(count: int) -> Iterator[None]:
    """OpenCV's own pool set to ``count`` threads inside the block: the images are what runs in parallel."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
