"""Fitting a feature memory: which features of the good parts to keep, and what distance is ordinary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stlm_core.errors import UserError
from stlm_core.models.detector import Detector
from stlm_core.models.feature_memory import FeatureMemory
from stlm_core.progress import progress
from stlm_core.seeding import derive_rng
from stlm_core.synthesis.bank import Bank
from stlm_core.training.farthest import farthest
from stlm_core.training.fresh import FreshViews, Images

Levels = npt.NDArray[Any]  # of pixels, uint8 or float32
_BATCH = 8
# Features of training images among which the memory is chosen; of more it is not better (docs/decisions/0017).
_CANDIDATES = 60_000
_AGAIN = 2  # fresh views of every image besides the image as it is
_AS_THEY_ARE = 2 / 3  # share of the vectors that is chosen from the images as they are, before any fresh view
_FEWEST_DEVIATION = 1e-6


@torch.no_grad()
def fit_memory(
    detector: Detector, bank: Bank, seed: int, device: torch.device, fresh: FreshViews | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, centre and deviation for the detector's memory, from the good images of ``bank``.

    Only the training images are remembered: the validation images are to judge what is learned. The rows that
    :func:`complete_memory` fills from these are copies of the first until then.

    The vectors are chosen among an equal number of random ones of every training image, so that each is as far as can
    be from those already chosen (greedy k-centre). With ``fresh`` a third of them is chosen so from the same images
    in other poses and before other cameras: chosen together, these would be the farthest of all and leave no room.
    Centre and deviation are of the distance map over the validation images as they are. Images as they are come in
    exact levels, as an inspection sees them (docs/decisions/0028).

    Raises:
        UserError: the bank has too few training images for the memory's size, or no validation image.
    """
    memory = _memory(detector)
    detector.eval()
    training, validation = bank.as_they_are("train"), bank.as_they_are("validation")
    if not validation:
        raise UserError("the bank has no `validation` images; raise data.validation_fraction or add good images")
    size = memory.vectors.shape[0]
    chosen = _chosen(detector, bank, training, rows_of_training(size, bank), None, seed, device, fresh)
    memory.vectors.copy_(torch.cat([chosen, chosen[:1].expand(size - len(chosen), -1)]))
    side = (detector.facts.size // 2,) * 2
    maps = [
        memory.distance_map(
            detector.remembered_maps(torch.from_numpy(bank.exact(validation[start : start + _BATCH])).to(device)), side
        )
        for start in range(0, len(validation), _BATCH)
    ]
    total = sum(one.numel() for one in maps)
    centre = torch.stack([one.double().sum() for one in maps]).sum() / total
    square = torch.stack([(one.double() - centre).square().sum() for one in maps]).sum() / total
    return memory.vectors.cpu(), centre.float().cpu(), square.sqrt().clamp_min(_FEWEST_DEVIATION).float().cpu()


@torch.no_grad()
def complete_memory(
    detector: Detector, bank: Bank, seed: int, device: torch.device, fresh: FreshViews | None = None
) -> Tensor:
    """The vectors of a memory that :func:`fit_memory` made, completed by features of the validation images.

    For when these have nothing left to judge (docs/decisions/0024). Their share of the rows is that of the validation
    images among the training and validation images, and what is chosen is farthest from what is remembered already.
    Centre and deviation stay those of images that were not remembered.
    """
    vectors = _memory(detector).vectors
    own = vectors[: rows_of_training(len(vectors), bank)]
    if len(own) == len(vectors):
        return vectors.cpu()
    detector.eval()
    views = bank.as_they_are("validation")
    return _chosen(detector, bank, views, len(vectors) - len(own), own, seed, device, fresh).cpu()


def require_spare_rows(detector: Detector, bank: Bank) -> None:
    """Refuse a memory whose rows for the validation images of ``bank`` are not free.

    Raises:
        UserError: another bank was remembered, or an earlier version that left no row free.
    """
    vectors = _memory(detector).vectors
    spare = vectors[rows_of_training(len(vectors), bank) :]
    if not torch.equal(spare, vectors[:1].expand_as(spare)):
        raise UserError(
            f"{bank.folder}: the memory was not made from this bank, or by an earlier version; run "
            "`stlm distill --force` again"
        )


def rows_of_training(size: int, bank: Bank) -> int:
    """How many of a memory's ``size`` vectors come from the training images."""
    training, validation = len(bank.as_they_are("train")), len(bank.as_they_are("validation"))
    return size - size * validation // (training + validation)


def _chosen(
    detector: Detector,
    bank: Bank,
    views: Sequence[int],
    count: int,
    kept: Tensor | None,
    seed: int,
    device: torch.device,
    fresh: FreshViews | None,
) -> Tensor:
    """The vectors ``kept`` and ``count`` more from ``views``: all as they are, or a third of them seen again."""
    before = 0 if kept is None else len(kept)
    as_they_are = count if fresh is None else math.ceil(count * _AS_THEY_ARE)
    an_image = -(-_CANDIDATES // len(bank.as_they_are("train")))
    pool = _candidates(detector, views, lambda _place, view: bank.exact([view])[0], an_image, seed, device)
    if len(pool) < count:
        raise UserError(
            f"model.memory: {len(_memory(detector).vectors)} is too many for the {len(pool)} features of "
            f"{len(views)} good images; set it lower"
        )
    chosen = farthest(pool, before + as_they_are, kept)
    if fresh is None:
        return chosen
    del pool  # before the next one is there

    def again(place: int, view: int) -> Images:
        return fresh.again(bank.views([view])[0], derive_rng("remember again", seed, place))

    pool = _candidates(detector, list(views) * _AGAIN, again, -(-an_image // _AGAIN), seed, device)
    return farthest(pool, before + count, chosen)


def _candidates(
    detector: Detector,
    views: Sequence[int],
    show: Callable[[int, int], Levels],
    share: int,
    seed: int,
    device: torch.device,
) -> Tensor:
    """``share`` random features of each of ``views``, (n, C); ``show`` makes an image of a place and its view."""
    memory = _memory(detector)
    found: list[Tensor] = []
    with progress("remember", len(views)) as shown:
        for start in range(0, len(views), _BATCH):
            some = list(enumerate(views))[start : start + _BATCH]
            images = torch.from_numpy(np.stack([show(place, view) for place, view in some]))
            maps = detector.remembered_maps(images.to(device))
            embedded = memory.embed(maps).flatten(2).transpose(1, 2)  # (n, cells, C)
            for (_place, view), cells in zip(some, embedded, strict=True):
                order = derive_rng("remember", seed, view).permutation(len(cells))[:share]
                found.append(cells[torch.from_numpy(order)])
            shown.advance(len(some))
    return torch.cat(found)


def _memory(detector: Detector) -> FeatureMemory:
    assert detector.memory is not None
    return detector.memory
