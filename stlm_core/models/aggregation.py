"""Feature aggregation, FA: the two streams' agreement to one anomaly map (paper section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.models.tiny_vit import EMBED_DIM
from stlm_core.models.two_stream import LARGEST_DISCREPANCY, MAPS, StreamFeatures, discrepancy_map

_WIDTH = 128
_RATES = (1, 3)
# Start of the skip: a discrepancy of 1/20 of the largest possible is as likely anomalous as not.
_SLOPE, _OFFSET = 1.0, 3.0
_LOG_FLOOR = 1e-4


def _conv_norm_relu(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _conv_norm_relu(inputs, outputs, 3)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class AtrousPyramid(nn.Module):
    """ASPP: a 1x1 branch, 3x3 branches at two rates, and image pooling, projected to one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.point = _conv_norm_relu(width, width, 1)
        self.atrous = nn.ModuleList(_conv_norm_relu(width, width, 3, rate) for rate in _RATES)
        # No batch normalisation on the pooled branch: one value an image and channel cannot be normalised at batch 1.
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.ReLU(inplace=True))
        self.project = _conv_norm_relu(width * (2 + len(_RATES)), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.point(x), *(branch(x) for branch in self.atrous), self.pooled(x).expand_as(x)]
        out: Tensor = self.project(torch.cat(branches, 1))
        return out


class FeatureAggregation(nn.Module):
    """Stream features to anomaly logits (N, h, w); the anomaly map is their sigmoid; 1.64 M parameters.

    With ``discrepancy_skip`` (beyond the paper) the logits are a learned affine function of the log of the streams'
    discrepancy, to which the network adds; it starts by adding nothing. FA then refines a map that finds any
    departure from the normal, instead of having to learn from pseudo anomalies alone what one looks like.
    """

    covered = 0.5  # share of a cell that must be anomalous for the cell to be

    def __init__(self, discrepancy_skip: bool = True, inputs: int = MAPS * EMBED_DIM, width: int = _WIDTH) -> None:
        super().__init__()
        self.discrepancy_skip = discrepancy_skip
        self.residual = nn.Sequential(ResidualBlock(inputs, width), ResidualBlock(width, width))
        self.pyramid = AtrousPyramid(width)
        last = nn.Conv2d(width, 1, 1)
        self.head = nn.Sequential(_conv_norm_relu(width, width, 3), last)
        self.slope = nn.Parameter(torch.tensor(_SLOPE), requires_grad=discrepancy_skip)
        self.offset = nn.Parameter(torch.tensor(_OFFSET), requires_grad=discrepancy_skip)
        if discrepancy_skip:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, features: StreamFeatures) -> Tensor:
        learned: Tensor = self.head(self.pyramid(self.residual(self.agreement(features))))
        return self.on_discrepancy(learned[:, 0].float(), features)

    def agreement(self, features: StreamFeatures) -> Tensor:
        """What the network sees of the streams, (N, inputs, h, w)."""
        return torch.cat([-(p * d) for p, d in zip(features.plain, features.denoising, strict=True)], 1)

    def on_discrepancy(self, learned: Tensor, features: StreamFeatures) -> Tensor:
        """The network's logits (N, h, w), on top of the discrepancy's where there is a skip."""
        if not self.discrepancy_skip:
            return learned
        relative = discrepancy_map(features) / LARGEST_DISCREPANCY
        return learned + self.slope * torch.log(relative + _LOG_FLOOR) + self.offset
