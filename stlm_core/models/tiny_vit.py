"""TinyViT-5M image encoder in the variant that MobileSAM and LiteMedSAM use (paper section 3.3).

Four stages of 64, 128, 160 and 320 channels. The third downsampling keeps its resolution, so the grid is
1/4 of the patch embedding's output; a neck of two convolutions brings 320 channels to 256. Module names follow
the published checkpoints, which therefore load strictly.

Any height and width that are multiples of the encoder's stride are accepted. Attention biases are looked
up from the parameter at every call: nothing is cached, so weights loaded in eval mode take effect.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.models.window_attention import WindowAttention

Stem = Literal["conv3x3", "conv1x1"]
STRIDES: dict[Stem, int] = {"conv3x3": 16, "conv1x1": 4}  # input pixels a cell of the embedding, by stem
EMBED_DIM = 256
_WIDTHS = (64, 128, 160, 320)
_DEPTHS = (2, 2, 6, 2)
_HEADS = (2, 4, 5, 10)
_WINDOWS = (7, 7, 14, 7)
_EXPANSION = 4


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of (N, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.c(x))
        return out


class PatchEmbed(nn.Module):
    """Image to tokens: MobileSAM's 3x3 stride-2 pair (stride 4), or LiteMedSAM's 1x1 pair (stride 1)."""

    def __init__(self, stem: Stem, width: int) -> None:
        super().__init__()
        kernel, stride = (3, 2) if stem == "conv3x3" else (1, 1)
        self.seq = nn.Sequential(
            ConvNorm(3, width // 2, kernel, stride), nn.GELU(), ConvNorm(width // 2, width, kernel, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.seq(x)
        return out


class InvertedBottleneck(nn.Module):
    """Expansion, depth-wise 3x3, projection, with a residual (the convolutional first stage)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width * _EXPANSION
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class PatchMerging(nn.Module):
    """Change of width between stages, halving the resolution where ``stride`` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return out


class Mlp(nn.Module):
    """Normalisation, expansion, GELU, projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width * _EXPANSION)
        self.fc2 = nn.Linear(width * _EXPANSION, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class Block(nn.Module):
    """Window attention, a depth-wise 3x3 convolution between the windows, and an MLP; (N, C, H, W) in and out."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window)
        self.mlp = Mlp(width)
        self.local_conv = ConvNorm(width, width, 3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        tokens = tokens + self.attn(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)
        return out


class Stage(nn.Module):
    """Blocks of one width, then the merging into the next."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x


class TinyViT(nn.Module):
    """Images (N, 3, H, W), float, already normalised, to an embedding (N, 256, H / stride, W / stride).

    ``stride`` is the stem's in :data:`STRIDES`. H and W must be multiples of it; the parameters number 5.74 M.

    Raises:
        ValueError: H or W is not a multiple of the stride.
    """

    def __init__(self, stem: Stem = "conv3x3") -> None:
        super().__init__()
        self.stride = STRIDES[stem]
        self.patch_embed = PatchEmbed(stem, _WIDTHS[0])
        stages = []
        for index, (width, depth) in enumerate(zip(_WIDTHS, _DEPTHS, strict=True)):
            blocks: list[nn.Module] = [
                InvertedBottleneck(width) if index == 0 else Block(width, _HEADS[index], _WINDOWS[index])
                for _ in range(depth)
            ]
            last = index == len(_WIDTHS) - 1
            # SAM variant: the step to 320 channels keeps its resolution.
            merge = None if last else PatchMerging(width, _WIDTHS[index + 1], 1 if _WIDTHS[index + 1] == 320 else 2)
            stages.append(Stage(blocks, merge))
        self.layers = nn.ModuleList(stages)
        self.neck = nn.Sequential(
            nn.Conv2d(_WIDTHS[-1], EMBED_DIM, 1, bias=False),
            LayerNorm2d(EMBED_DIM),
            nn.Conv2d(EMBED_DIM, EMBED_DIM, 3, padding=1, bias=False),
            LayerNorm2d(EMBED_DIM),
        )
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2] % self.stride or image.shape[-1] % self.stride:
            raise ValueError(f"image of {tuple(image.shape[-2:])} is not a multiple of the stride {self.stride}")
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        out: Tensor = self.neck(x)
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
