"""Feature aggregation as a decoder over the plain stream's own features (beyond the paper, docs/decisions/0016).

The paper's FA sees the product of the two streams alone: what the plain stream sees of the part is lost to it. This
one sees the plain stream's maps as they are, and the product beside them, from the coarsest stride to the finest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.models.efficientnet import FINEST, PYRAMID
from stlm_core.models.two_stream import StreamFeatures

_WIDTHS = (32, 64, 96, 128)  # at strides 2, 4, 8 and 16
_START = -3.0  # logit of a pixel before anything is learned: anomalies are rare


class _Residual(nn.Module):
    """Two 3x3 convolutions, the first with ``dilation``, and the input added."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class PyramidDecoder(nn.Module):
    """Stream features with context to anomaly logits (N, S/2, S/2); the anomaly map is their sigmoid; 0.9 M parameters.

    ``StreamFeatures.context`` is the plain stream's standardised maps of strides 2, 4, 8 and 16. Where there is a
    denoising stream, the product of the streams' L2-normalised maps, scaled to mean square 1 for unrelated features,
    is appended to the three coarser ones.
    """

    covered = 0.3  # share of a cell that must be anomalous for the cell to be: thin scratches must not get lost

    def __init__(self, denoising: bool) -> None:
        super().__init__()
        shares = 2 if denoising else 1
        inputs = [FINEST[0], *(shares * width for width, _ in PYRAMID)]
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(found, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            for found, width in zip(inputs, _WIDTHS, strict=True)
        )
        self.deepest = nn.Sequential(_Residual(_WIDTHS[-1]), _Residual(_WIDTHS[-1], dilation=2))
        self.rising = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(_WIDTHS))
        self.refine = nn.ModuleList(_Residual(width) for width in _WIDTHS[:-1])
        last = nn.Conv2d(_WIDTHS[0], 1, 1)
        self.head = nn.Sequential(
            nn.Conv2d(_WIDTHS[0], _WIDTHS[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTHS[0]),
            nn.ReLU(inplace=True),
            last,
        )
        nn.init.constant_(last.bias, _START)  # type: ignore[arg-type]

    def forward(self, features: StreamFeatures) -> Tensor:
        laterals = [layer(one) for layer, one in zip(self.lateral, self.inputs(features), strict=True)]
        x = self.deepest(laterals[-1])
        steps = zip(self.rising, self.refine, laterals[:-1], strict=True)
        for rise, refine, lateral in reversed(list(steps)):
            risen = F.interpolate(rise(x), lateral.shape[-2:], mode="bilinear", align_corners=False)
            x = refine(lateral + risen)
        logits: Tensor = self.head(x)
        return logits[:, 0].float()

    def inputs(self, features: StreamFeatures) -> Sequence[Tensor]:
        """What the network sees at strides 2, 4, 8 and 16."""
        if not features.denoising:
            return features.context
        products = [p * d * p.shape[1] for p, d in zip(features.plain, features.denoising, strict=True)]
        coarser = [torch.cat(both, 1) for both in zip(features.context[1:], products, strict=True)]
        return [features.context[0], *coarser]
