"""Fitting a feature memory: which features of the good parts to keep, and what distance is ordinary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stlm_core.errors import UserError
from stlm_core.models.detector import Detector
from stlm_core.models.feature_memory import FeatureMemory
from stlm_core.models.teacher_stream import TeacherStreams
from stlm_core.progress import progress
from stlm_core.seeding import derive_rng
from stlm_core.synthesis.bank import Bank
from stlm_core.training.farthest import farthest
from stlm_core.training.fresh import FreshViews, Images

_BATCH = 8
_CANDIDATES = 60_000  # features among which the memory is chosen; of more it is not better (docs/decisions/0017)
_AGAIN = 2  # fresh views of every training image besides the image as it is
_AS_THEY_ARE = 2 / 3  # share of the memory that is chosen from the images as they are, before any fresh view
_FEWEST_DEVIATION = 1e-6


@torch.no_grad()
def fit_memory(
    detector: Detector, bank: Bank, seed: int, device: torch.device, fresh: FreshViews | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, centre and deviation for the detector's memory, from the good images of ``bank``.

    The vectors are chosen among an equal number of random ones of every training image, so that each is as far as can
    be from those already chosen (greedy k-centre). With ``fresh`` a third of them is chosen so from the same images
    in other poses and before other cameras: chosen together, these would be the farthest of all and leave no room.
    Centre and deviation are of the distance map over the validation images as they are.

    Raises:
        UserError: the bank has too few training images for the memory's size, or no validation image.
    """
    memory = _memory(detector)
    detector.eval()
    training, validation = bank.as_they_are("train"), bank.as_they_are("validation")
    if not validation:
        raise UserError("the bank has no `validation` images; raise data.validation_fraction or add good images")

    size = memory.vectors.shape[0]
    as_they_are = size if fresh is None else math.ceil(size * _AS_THEY_ARE)
    pool = _candidates(detector, training, lambda _place, view: bank.views([view])[0], seed, device)
    if len(pool) < size:
        raise UserError(f"model.memory: {size} is more than the {len(pool)} features of the good images; set it lower")
    chosen = farthest(pool, as_they_are)
    if fresh is not None:
        del pool  # before the next one is there

        def again(place: int, view: int) -> Images:
            return fresh.again(bank.views([view])[0], derive_rng("remember again", seed, place))

        chosen = farthest(_candidates(detector, training * _AGAIN, again, seed, device), size, chosen)
    memory.vectors.copy_(chosen)
    side = (detector.facts.size // 2,) * 2
    maps = [
        memory.distance_map(_maps(detector, bank.views(validation[start : start + _BATCH]), device), side)
        for start in range(0, len(validation), _BATCH)
    ]
    total = sum(one.numel() for one in maps)
    centre = torch.stack([one.double().sum() for one in maps]).sum() / total
    square = torch.stack([(one.double() - centre).square().sum() for one in maps]).sum() / total
    return memory.vectors.cpu(), centre.float().cpu(), square.sqrt().clamp_min(_FEWEST_DEVIATION).float().cpu()


def _candidates(
    detector: Detector, views: Sequence[int], show: Callable[[int, int], Images], seed: int, device: torch.device
) -> Tensor:
    """Random features (n, C) in equal numbers of all ``views``; ``show`` makes an image of a place and its view."""
    memory = _memory(detector)
    share = -(-_CANDIDATES // len(views))
    found: list[Tensor] = []
    with progress("remember", len(views)) as shown:
        for start in range(0, len(views), _BATCH):
            some = list(enumerate(views))[start : start + _BATCH]
            maps = _maps(detector, np.stack([show(place, view) for place, view in some]), device)
            embedded = memory.embed(maps).flatten(2).transpose(1, 2)  # (n, cells, C)
            for (_place, view), cells in zip(some, embedded, strict=True):
                order = derive_rng("remember", seed, view).permutation(len(cells))[:share]
                found.append(cells[torch.from_numpy(order)])
            shown.advance(len(some))
    return torch.cat(found)


def _memory(detector: Detector) -> FeatureMemory:
    assert detector.memory is not None
    return detector.memory


def _maps(detector: Detector, images: Images, device: torch.device) -> list[Tensor]:
    streams = detector.streams
    assert isinstance(streams, TeacherStreams)
    return streams.remembered(streams(detector.preprocess(torch.from_numpy(images).to(device))))
