"""The images of the threshold, remembered too, each scored as if it were not (docs/decisions/0027).

Every such image adds the same number of its own features, those farthest from what training remembered, and no other
image has a say in which. So a part to come is scored by a memory that lacks it and has all held-back parts, and a
held-back part by one that lacks it and the part to come, too. One vector more can only make a distance smaller:
were the part to come remembered like the others, all parts would be exchangeable, and every held-back score lower than
the one that is taken. The threshold's guarantee, a mean over draws of held-back parts, holds therefore as it does
without remembering (:mod:`stlm_core.evaluation.operating_point`), provided that :func:`plan` would be the same with any
one part left out, so exactly for parts of equal size. What is said of one given threshold, its confidence, is then an
approximation: the detector depends on the images that it comes from.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stlm_core.models.detector import Detector
from stlm_core.models.feature_memory import FeatureMemory
from stlm_core.training.farthest import farthest

Image = npt.NDArray[np.uint8]
_AT_MOST = 4  # a held-back image's vectors cost time in every inference: they are at most a quarter of the others


@dataclass(frozen=True)
class Plan:
    """``each``: vectors that a held-back image adds. ``share``: of the held-back images that add any."""

    each: int
    share: float

    def chooses(self, sha256: str) -> bool:
        """Whether the image with this hash is one of the share; no other image has a say."""
        return int(sha256[:8], 16) < self.share * 2**32


def plan(size: int, remembered_images: int, held_back_images: int) -> Plan:
    """How much of held-back images to remember in a memory of ``size`` vectors from ``remembered_images`` images.

    Each adds as many as one of these has in the mean, if together they are not more than a quarter of ``size``.
    """
    most = size // _AT_MOST
    each = max(1, min(size // max(1, remembered_images), most // max(1, held_back_images)))
    return Plan(each, min(1.0, most / (each * max(1, held_back_images))))


class HeldBackMemory:
    """The memory of ``detector`` with ``each`` vectors of images of the threshold.

    ``images``: pairs of a part's name and uint8 (H, W, 3) RGB, seen once. Nothing but the vectors that are added is
    kept of an image.
    """

    def __init__(
        self, detector: Detector, images: Iterable[tuple[Hashable, Image]], each: int, device: torch.device
    ) -> None:
        assert detector.memory is not None
        self._memory: FeatureMemory = detector.memory
        self._base = self._memory.vectors
        self._parts: list[tuple[Hashable, Tensor]] = [
            (part, self._farthest_of(detector, image, each, device)) for part, image in images
        ]

    def added(self) -> Tensor:
        """What the images add, (n, 152) float32 on the CPU, in their order."""
        return self._rows_but(None).cpu()

    @contextmanager
    def without(self, part: Hashable) -> Iterator[None]:
        """In the block the detector remembers all held-back images but those of ``part``."""
        self._memory.vectors = torch.cat([self._base, self._rows_but(part)])
        try:
            yield
        finally:
            self._memory.vectors = self._base

    def _rows_but(self, part: Hashable) -> Tensor:
        return torch.cat([self._base[:0], *(rows for owner, rows in self._parts if owner != part)])

    @torch.no_grad()
    def _farthest_of(self, detector: Detector, image: Image, count: int, device: torch.device) -> Tensor:
        maps = detector.remembered_maps(torch.from_numpy(image[None]).to(device))
        cells = self._memory.embed(maps)[0].flatten(1).T
        return farthest(cells, len(self._base) + min(count, len(cells)), self._base, told=False)[len(self._base) :]
