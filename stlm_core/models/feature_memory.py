"""Features of good parts kept as they are, and how far an image is from the nearest (beyond the paper, decision 0016).

The denoising stream says what the teacher would have seen on a good part. The nearest of a few thousand remembered
features says the same without being trained, after PatchCore (Roth et al., CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.models.efficientnet import PYRAMID

_FIRST = 1  # strides 8 and 16
CHANNELS = sum(width for width, _stride in PYRAMID[_FIRST:])
_SIGMA = 2.0  # of the blur, in pixels of the map that is asked for
_RADIUS = 6


class FeatureMemory(nn.Module):
    """The plain stream's maps of strides 4, 8 and 16 to the distance from what is remembered; ``size`` vectors.

    The maps are averaged over 3 x 3 cells, brought to stride 8 and joined, 152 channels; the distance is Euclidean.
    ``centre`` and ``deviation`` are those of the distance map over good images that were not remembered yet: a
    standardised distance of 1 is one deviation further than a good part. ``share``: the memory's weight in a detector's
    image score; ``map_share``: that in its anomaly map, whose logits ``map_shift`` brings to the score's level
    (decision 0019).
    """

    vectors: Tensor
    share: Tensor
    map_share: Tensor
    map_shift: Tensor
    centre: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, CHANNELS))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("share", torch.tensor(0.5))
        self.register_buffer("map_share", torch.tensor(0.5))
        self.register_buffer("map_shift", torch.zeros(()))

    def embed(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, h, w) of the strides of PYRAMID to vectors (N, 152, S/8, S/8)."""
        local = [F.avg_pool2d(one, 3, 1, 1) for one in maps[_FIRST:]]
        side = local[0].shape[-2:]
        return torch.cat(
            [local[0], *(F.interpolate(one, side, mode="bilinear", align_corners=False) for one in local[1:])], 1
        )

    def distance_map(self, maps: Sequence[Tensor], side: Sequence[int]) -> Tensor:
        """Distance to the nearest remembered vector, at ``side`` = (h, w), blurred; (N, h, w)."""
        found = self.embed(maps)
        queries = found.permute(0, 2, 3, 1)  # (N, h, w, C)
        squares = (self.vectors**2).sum(1) - 2 * queries @ self.vectors.T
        distance = (squares.amin(-1) + (queries**2).sum(-1)).clamp_min(0).sqrt()
        resized = F.interpolate(distance[:, None], tuple(side), mode="bilinear", align_corners=False)
        return blurred(resized, _SIGMA, _RADIUS)[:, 0]

    def forward(self, maps: Sequence[Tensor], side: Sequence[int]) -> Tensor:
        """The standardised :meth:`distance_map`, (N, h, w)."""
        return (self.distance_map(maps, side) - self.centre) / self.deviation


def blurred(one: Tensor, sigma: float, radius: int) -> Tensor:
    """(N, 1, h, w) convolved with a Gaussian of ``sigma`` cells cut at ``radius``; its border is repeated."""
    offsets = torch.arange(-radius, radius + 1, dtype=one.dtype, device=one.device)
    bell = torch.exp(-(offsets**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    padded = F.pad(one, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
