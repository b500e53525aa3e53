"""From camera pixels to network input: one module for training, evaluation and the exported graph."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Normalisation = Literal["unit", "sam", "imagenet", "efficientnet_lite"]

# Mean and standard deviation on the 0..255 scale, RGB.
NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),  # LiteMedSAM: scaled to [0, 1] and no more
    "sam": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "efficientnet_lite": ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),  # as the published networks were trained
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


class Preprocess(nn.Module):
    """uint8 (N, H, W, 3) RGB of any H and W to normalised float32 (N, 3, ``size``, ``size``).

    Resizing is bilinear with antialiasing and ignores the aspect ratio. An image that already has the network's
    size passes through unchanged, which is what makes packed training images and camera images agree.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.size = size
        self.normalisation = normalisation
        mean, std = NORMALISATIONS[normalisation]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float()
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        return (x - self.mean) / self.std
