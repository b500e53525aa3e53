"""How much of the shipped map is the memory's, and how much the decoder's: judged by the good parts alone."""

from __future__ import annotations

import torch
from torch import Tensor

from stlm_core.models.detector import Detector
from stlm_core.synthesis.bank import Bank

_BATCH = 8
_FEWEST = 8  # images; the spread of fewer says nothing, and the two count alike
# The unrest of twenty images is a rough estimate, and where the memory rules its blurred map draws blurred borders.
_LEAST, _MOST = 0.35, 0.65
_LARGEST = 2048  # the image score is that of one in so many cells, 8 of 128 x 128


@torch.no_grad()
def memory_share(detector: Detector, bank: Bank, device: torch.device) -> float:
    """Weight of the memory in the map, between 0.35 and 0.65; the decoder has the rest.

    Each of the two is weighted by the inverse of its own unrest: the standard deviation of its image scores over the
    validation images as they are. One deviation of a good part then counts the same in both, and the one that is
    easily upset by good parts of this line is heard less. One half where there are fewer than 8 images.
    """
    views = bank.as_they_are("validation")
    if len(views) < _FEWEST:
        return 0.5
    detector.eval()
    learned, remembered = [], []
    for start in range(0, len(views), _BATCH):
        images = torch.from_numpy(bank.views(views[start : start + _BATCH])).to(device)
        decoder, memory = detector.opinions(detector.preprocess(images))
        learned.append(_scores(decoder))
        remembered.append(_scores(memory))
    decoder_unrest, memory_unrest = (float(torch.cat(one).std()) for one in (learned, remembered))
    total = decoder_unrest + memory_unrest
    return min(max(decoder_unrest / total, _LEAST), _MOST) if total > 0 else 0.5


def _scores(one: Tensor) -> Tensor:
    """Mean of the largest cells of each map (N, h, w)."""
    cells = one.float().flatten(1)
    return cells.topk(max(1, cells.shape[1] // _LARGEST)).values.mean(1).cpu()
