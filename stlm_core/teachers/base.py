"""What every teacher is, whatever network is inside."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.files import sha256_bytes
from stlm_core.models.preprocessing import Normalisation, Preprocess
from stlm_core.models.tiny_vit import Stem

# Raised whenever a teacher's numbers change for the same weights: caches of earlier numbers are then not reused.
_REVISION = 1


@dataclass(frozen=True)
class TeacherFacts:
    """What is known of a teacher before its weights are read.

    ``weights``: name in the weights catalogue; ``input_size``: side of the square image it was trained on, pixels;
    ``multiple``: other sides must be multiples of it, None if there is no other; ``maps``: what the feature maps
    are, first to last; ``stem``: the patch embedding when it is a TinyViT that students may start from;
    ``pyramid``: channels and stride of the maps, finest first, of a teacher small enough to be the plain stream itself.
    """

    name: str
    weights: str
    architecture: str
    input_size: int
    multiple: int | None
    normalisation: Normalisation
    maps: tuple[str, ...]
    stem: Stem | None = None
    pyramid: tuple[tuple[int, int], ...] = ()


class Teacher(nn.Module):
    """uint8 (N, H, W, 3) RGB of any size to float32 maps (N, 256, h, w), L2-normalised over the channels.

    All maps of a teacher have the same h and w. The images are resized to ``input_size`` and normalised inside.
    Always in eval mode, without gradients; ``network`` takes the normalised images (N, 3, S, S).
    """

    def __init__(self, facts: TeacherFacts, network: nn.Module, weights_sha256: str, input_size: int) -> None:
        super().__init__()
        self.facts = facts
        self.sha256 = weights_sha256
        self.input_size = input_size
        self.preprocess = Preprocess(input_size, facts.normalisation)
        self.network = network
        self.requires_grad_(False)
        self.eval()

    @property
    def name(self) -> str:
        """Name in the registry."""
        return self.facts.name

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: batch statistics of a teacher must never move."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        maps: Sequence[Tensor] = self.network(self._normalised(images))
        return [F.normalize(feature.float(), dim=1) for feature in maps]

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Images as for the call to the maps of ``facts.pyramid`` as the network has them, not L2-normalised."""
        pyramid: Callable[[Tensor], Sequence[Tensor]] = self.network.pyramid  # type: ignore[assignment]
        return [feature.float() for feature in pyramid(self._normalised(images))]

    def _normalised(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"a teacher takes uint8 (N, H, W, 3), not {images.dtype} {tuple(images.shape)}")
        out: Tensor = self.preprocess(images)
        return out

    def description(self) -> dict[str, str | int | list[str]]:
        """Everything that decides the numbers: part of every cache key."""
        return {
            "teacher": self.name,
            "weights_sha256": self.sha256,
            "input_size": self.input_size,
            "resize": "bilinear, antialiased",
            "normalisation": self.facts.normalisation,
            "maps": list(self.facts.maps),
            "revision": _REVISION,
        }

    def fingerprint(self) -> str:
        """sha256 hex digest of :meth:`description`."""
        return sha256_bytes(json.dumps(self.description(), sort_keys=True).encode())
