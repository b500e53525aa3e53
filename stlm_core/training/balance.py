"""How loud the memory is beside the decoder, in the image score and in the anomaly map: judged by good parts alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stlm_core.models.detector import Detector
from stlm_core.seeding import derive_rng
from stlm_core.synthesis.bank import Bank
from stlm_core.training.fresh import FreshViews
from stlm_core.training.remember import Levels

_BATCH = 8
_AGAIN = 2  # fresh views of every validation image
_FEWEST = 8  # images; the spread of fewer says nothing
_LEAST, _MOST = 0.6, 0.75  # the unrest of twenty images is a rough estimate
_LARGEST = 2048  # the image score is that of one in so many cells, 8 of 128 x 128


@torch.no_grad()
def memory_balance(
    detector: Detector, bank: Bank, seed: int, device: torch.device, fresh: FreshViews | None = None
) -> tuple[float, float]:
    """``share`` and ``map_shift`` for the detector's memory (docs/decisions/0019).

    The share is that in the image score, between 0.6 and 0.75: decoder and memory are each weighted by the inverse of
    their own unrest, the standard deviation of their image scores over the validation images; with ``fresh`` over
    fresh views of them, so that the one that is easily upset by another light or lens is heard less. 0.6 where
    there are fewer than 8 images.

    The anomaly map keeps its own ``map_share``: where the memory is loud, borders are blurred. The shift is what its
    largest logits lack in the mean over the validation images as they are, so that one threshold suits score and map.

    For a memory that has not been completed by the validation images.
    """
    memory = detector.memory
    assert memory is not None
    detector.eval()
    views = bank.as_they_are("validation")
    seen = _again(bank, views, seed, fresh) if fresh else _as_they_are(bank, views)
    share = _share(detector, seen, device) if len(views) >= _FEWEST else _LEAST
    lacking = [
        _score(decoder + share * ahead) - _score(decoder + memory.map_share * ahead)
        for decoder, ahead in (
            (one, other - one) for one, other in _opinions(detector, _as_they_are(bank, views), device)
        )
    ]
    return share, float(torch.cat(lacking).mean()) if lacking else 0.0


def _share(detector: Detector, batches: Iterator[Levels], device: torch.device) -> float:
    scores = [torch.stack([_score(one), _score(other)]) for one, other in _opinions(detector, batches, device)]
    decoder_unrest, memory_unrest = torch.cat(scores, 1).std(1).tolist()
    total = decoder_unrest + memory_unrest
    return min(max(decoder_unrest / total, _LEAST), _MOST) if total > 0 else _LEAST


def _as_they_are(bank: Bank, views: Sequence[int]) -> Iterator[Levels]:
    for start in range(0, len(views), _BATCH):
        yield bank.exact(views[start : start + _BATCH])


def _again(bank: Bank, views: Sequence[int], seed: int, fresh: FreshViews) -> Iterator[Levels]:
    for number in range(_AGAIN):
        for place, start in enumerate(range(0, len(views), _BATCH)):
            rng = derive_rng("balance", seed, number, place)
            yield np.stack([fresh.again(image, rng) for image in bank.views(views[start : start + _BATCH])])


def _opinions(detector: Detector, batches: Iterator[Levels], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The decoder's logits and the memory's standardised distance (n, h, w)."""
    for images in batches:
        yield detector.opinions(detector.preprocess(torch.from_numpy(images).to(device)))


def _score(one: Tensor) -> Tensor:
    """Mean of the largest cells of each map (n, h, w)."""
    cells = one.float().flatten(1)
    return cells.topk(max(1, cells.shape[1] // _LARGEST)).values.mean(1)
