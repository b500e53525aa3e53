"""How loud the memory is beside the decoder, in the image score and in the anomaly map: judged by good parts alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stlm_core.models.detector import Detector
from stlm_core.synthesis.bank import Bank

_BATCH = 8
_FEWEST = 8  # images; the spread of fewer says nothing, and the two count alike
_LEAST, _MOST = 0.5, 0.75  # the unrest of twenty images is a rough estimate
_LARGEST = 2048  # the image score is that of one in so many cells, 8 of 128 x 128


def memory_balance(detector: Detector, bank: Bank, device: torch.device) -> tuple[float, float]:
    """``share`` and ``map_shift`` for the detector's memory (docs/decisions/0019).

    The share is that in the image score, between 0.5 and 0.75: decoder and memory are each weighted by the inverse of
    their own unrest, the standard deviation of their image scores over the validation images as they are. One deviation
    of a good part then counts the same in both, and the one that is easily upset by good parts of this line is heard
    less. One half where there are fewer than 8 images.

    The anomaly map keeps its own ``map_share``: where the memory is loud, borders are blurred. The shift is what its
    largest logits lack in the mean over these images, so that one threshold suits score and map.
    """
    memory = detector.memory
    assert memory is not None
    share = _share(detector, bank, device)
    lacking = [
        _score(decoder + share * ahead) - _score(decoder + memory.map_share * ahead)
        for decoder, ahead in ((one, other - one) for one, other in _opinions(detector, bank, device))
    ]
    return share, float(torch.cat(lacking).mean()) if lacking else 0.0


def _share(detector: Detector, bank: Bank, device: torch.device) -> float:
    scores = [torch.stack([_score(one), _score(other)]) for one, other in _opinions(detector, bank, device)]
    if sum(one.shape[1] for one in scores) < _FEWEST:
        return 0.5
    decoder_unrest, memory_unrest = torch.cat(scores, 1).std(1).tolist()
    total = decoder_unrest + memory_unrest
    return min(max(decoder_unrest / total, _LEAST), _MOST) if total > 0 else 0.5


@torch.no_grad()
def _opinions(detector: Detector, bank: Bank, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The decoder's logits and the memory's standardised distance (n, h, w) of the validation images as they are."""
    views = bank.as_they_are("validation")
    detector.eval()
    for start in range(0, len(views), _BATCH):
        images = torch.from_numpy(bank.views(views[start : start + _BATCH])).to(device)
        yield detector.opinions(detector.preprocess(images))


def _score(one: Tensor) -> Tensor:
    """Mean of the largest cells of each map (n, h, w)."""
    cells = one.float().flatten(1)
    return cells.topk(max(1, cells.shape[1] // _LARGEST)).values.mean(1)
