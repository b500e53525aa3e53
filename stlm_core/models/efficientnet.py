"""EfficientNet-Lite0 up to stride 16.

Tan and Le, "EfficientNet", 2019, in the Lite variant: ReLU6, no squeeze-and-excitation, stem and head not scaled.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

_STEM_WIDTH = 32
# (blocks, kernel, stride, expansion, width) of the stages up to stride 16
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_TAPS = (2, 4, 10)  # last block of strides 4, 8 and 16
PYRAMID = ((24, 4), (40, 8), (112, 16))  # channels and stride of what the network yields
FINEST = (16, 2)  # of the map that `with_finest` yields besides


class ConvNorm(nn.Module):
    """Convolution and batch normalisation with TensorFlow's "same" padding (uneven for stride 2), then ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        before = max(0, kernel - stride) // 2  # for sides that are multiples of the stride
        after = max(0, kernel - stride) - before
        self.conv: nn.Module = nn.Conv2d(
            inputs, outputs, kernel, stride, before if before == after else 0, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)
        self.uneven = None if before == after else (before, after, before, after)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x if self.uneven is None else F.pad(x, self.uneven)))
        return F.relu6(x) if self.activate else x


class InvertedResidual(nn.Module):
    """Expansion, depth-wise convolution, linear projection; a residual where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, activate=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """Normalised images (N, 3, S, S), S a multiple of 16, to one map for each of :data:`PYRAMID`, finest first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, _STEM_WIDTH, 3, 2)
        blocks: list[nn.Module] = []
        inputs = _STEM_WIDTH
        for count, kernel, first_stride, expansion, width in _STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(inputs, width, kernel, first_stride if index == 0 else 1, expansion))
                inputs = width
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.with_finest(image)[1:]

    def with_finest(self, image: Tensor) -> tuple[Tensor, ...]:
        """The map of :data:`FINEST` before those of :data:`PYRAMID`."""
        x = self.stem(image)
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == 0 or index in _TAPS:
                taps.append(x)
        return tuple(taps)


@torch.no_grad()
def folded(network: EfficientNetLite0) -> EfficientNetLite0:
    """A frozen copy in eval mode with the batch normalisations folded into the convolutions: the same maps but for
    rounding, in two thirds of the time on a CPU."""
    copy = deepcopy(network).eval().requires_grad_(False)
    for module in copy.modules():
        if isinstance(module, ConvNorm):
            assert isinstance(module.conv, nn.Conv2d)
            assert isinstance(module.norm, nn.BatchNorm2d)
            module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
    return copy.requires_grad_(False)
