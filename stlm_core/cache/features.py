"""Teacher features of a bank's views, as rows of the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stlm_core.cache.ahead import ahead
from stlm_core.cache.rows import CacheDtype, Features
from stlm_core.cache.store import feature_key
from stlm_core.models.teacher_stream import pack_pyramid
from stlm_core.synthesis.bank import Bank
from stlm_core.teachers.base import Teacher


def to_grid(maps: Sequence[Tensor], grid: int) -> Tensor:
    """L2-normalised maps, each (N, C, h, w), averaged onto ``grid`` x ``grid`` cells and normalised again.

    Returns (N, maps, C, grid, grid).
    """
    pooled = [F.normalize(F.adaptive_avg_pool2d(feature.float(), grid), dim=1) for feature in maps]
    return torch.stack(pooled, 1)


class TeacherRows:
    """Computes what the cache keeps of a bank's views; called with positions in the bank's index."""

    def __init__(
        self,
        bank: Bank,
        teacher: Teacher,
        grid: int,
        batch_size: int,
        device: torch.device,
        autocast: torch.dtype | None,
        kept_as: CacheDtype = "float16",
    ) -> None:
        self._bank, self._teacher, self._grid = bank, teacher.to(device), grid
        self._batch_size, self._device, self._autocast = batch_size, device, autocast
        self._kept_as = kept_as

    @property
    def keys(self) -> list[str]:
        """Content address of every view's features, in view order."""
        fingerprint = f"{self._teacher.fingerprint()} computed={self._autocast or torch.float32}"
        return [
            feature_key(str(view), fingerprint, self._grid, self._kept_as) for view in self._bank.index["view_sha256"]
        ]

    @torch.no_grad()
    def __call__(self, views: list[int]) -> Features:
        """Features of ``views``, (n, maps, C, grid, grid), as precise as they are kept: float16, or float32 for int8.

        The next batch of views is read while the teacher sees the last.
        """
        starts = range(0, len(views), self._batch_size)
        parts = [views[start : start + self._batch_size] for start in starts]
        rows: Features | None = None
        for start, images in zip(starts, ahead(self._bank.views, parts), strict=True):
            found = self._features(torch.from_numpy(images))
            if rows is None:
                rows = np.empty((len(views), *found.shape[1:]), found.dtype)
            rows[start : start + len(found)] = found
        assert rows is not None
        return rows

    def _features(self, images: Tensor) -> Features:
        found = self._on_grid(images.to(self._device)).cpu()
        return (found.half() if self._kept_as == "float16" else found).numpy()

    def _on_grid(self, images: Tensor) -> Tensor:
        with torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None):
            maps = self._teacher(images)
        return to_grid(maps, self._grid)


class CleanPyramidRows(TeacherRows):
    """For a teacher that is the plain stream: its pyramid of the clean views alone, packed, (n, 1, C, grid, grid).

    A pseudo-anomalous view has its clean counterpart's key; rows are computed once a key. In full precision, as the
    plain stream computes.
    """

    @property
    def keys(self) -> list[str]:
        fingerprint = f"{self._teacher.fingerprint()} pyramid"
        views = self._bank.index["view_sha256"].to_numpy()[self._bank.index["clean_view"].to_numpy()]
        return [feature_key(str(view), fingerprint, self._grid, self._kept_as) for view in views]

    def _on_grid(self, images: Tensor) -> Tensor:
        return pack_pyramid(self._teacher.pyramid(images))[:, None]
