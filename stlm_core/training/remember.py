"""Fitting a feature memory: which features of the good parts to keep, and what distance is ordinary."""

from __future__ import annotations

import torch
from torch import Tensor

from stlm_core.errors import UserError
from stlm_core.models.detector import Detector
from stlm_core.models.feature_memory import CHANNELS
from stlm_core.models.teacher_stream import TeacherStreams
from stlm_core.progress import progress
from stlm_core.seeding import derive_rng
from stlm_core.synthesis.bank import Bank

_BATCH = 8
_CANDIDATES = 24_000  # features among which the memory is chosen
_FEWEST_DEVIATION = 1e-6


@torch.no_grad()
def fit_memory(detector: Detector, bank: Bank, seed: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, centre and deviation for the detector's memory, from the good images of ``bank`` as they are.

    The vectors are chosen among an equal number of random ones of every training image, so that each is as far as can
    be from those already chosen (greedy k-centre). Centre and deviation are of the distance map over the validation
    images.

    Raises:
        UserError: the bank has too few training images for the memory's size, or no validation image.
    """
    streams = detector.streams
    assert isinstance(streams, TeacherStreams)
    memory = streams.memory
    assert memory is not None
    detector.eval()
    as_they_are = bank.index[bank.index["seed"] == 0]
    training, validation = (
        as_they_are.loc[as_they_are["split"] == split, "view"].tolist() for split in ("train", "validation")
    )
    if not validation:
        raise UserError("the bank has no `validation` images; raise data.validation_fraction or add good images")
    share = -(-_CANDIDATES // len(training))
    candidates: list[Tensor] = []
    with progress("remember", len(training)) as shown:
        for start in range(0, len(training), _BATCH):
            views = training[start : start + _BATCH]
            embedded = memory.embed(_maps(detector, bank, views, device)).flatten(2).transpose(1, 2)  # (n, cells, C)
            for view, cells in zip(views, embedded, strict=True):
                order = derive_rng("remember", seed, int(view)).permutation(len(cells))[:share]
                candidates.append(cells[torch.from_numpy(order)])
            shown.advance(len(views))
    pool = torch.cat(candidates)
    size = memory.vectors.shape[0]
    if len(pool) < size:
        raise UserError(f"model.memory: {size} is more than the {len(pool)} features of the good images; set it lower")
    memory.vectors.copy_(farthest(pool, size))
    side = (detector.facts.size // 2,) * 2
    maps = [
        memory.distance_map(_maps(detector, bank, validation[start : start + _BATCH], device), side)
        for start in range(0, len(validation), _BATCH)
    ]
    total = sum(one.numel() for one in maps)
    centre = torch.stack([one.double().sum() for one in maps]).sum() / total
    square = torch.stack([(one.double() - centre).square().sum() for one in maps]).sum() / total
    return memory.vectors.cpu(), centre.float().cpu(), square.sqrt().clamp_min(_FEWEST_DEVIATION).float().cpu()


def farthest(pool: Tensor, size: int) -> Tensor:
    """``size`` of the vectors (n, C), the first of them and then always the one farthest from all chosen."""
    assert pool.shape[1] == CHANNELS
    squares = (pool**2).sum(1)
    nearest = torch.full_like(squares, float("inf"))
    chosen = [0]
    for _ in range(size - 1):
        last = pool[chosen[-1]]
        nearest = torch.minimum(nearest, squares - 2 * (pool @ last) + last @ last)
        chosen.append(int(nearest.argmax()))
    return pool[chosen]


def _maps(detector: Detector, bank: Bank, views: list[int], device: torch.device) -> list[Tensor]:
    images = torch.from_numpy(bank.views(views)).to(device)
    streams = detector.streams
    assert isinstance(streams, TeacherStreams)
    return streams.remembered(streams(detector.preprocess(images)))
