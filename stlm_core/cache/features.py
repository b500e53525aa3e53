"""Teacher features of a bank's views, as rows of the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stlm_core.cache.chunks import Rows
from stlm_core.cache.store import feature_key
from stlm_core.synthesis.bank import Bank
from stlm_core.teachers.base import Teacher


def to_grid(maps: Sequence[Tensor], grid: int) -> Tensor:
    """L2-normalised maps, each (N, C, h, w), averaged onto ``grid`` x ``grid`` cells and normalised again.

    Returns (N, maps, C, grid, grid).
    """
    pooled = [F.normalize(F.adaptive_avg_pool2d(feature.float(), grid), dim=1) for feature in maps]
    return torch.stack(pooled, 1)


class TeacherRows:
    """Computes cache rows for views of a bank; called with positions in the bank's index."""

    def __init__(
        self,
        bank: Bank,
        teacher: Teacher,
        grid: int,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self._bank, self._teacher, self._grid = bank, teacher.to(device), grid
        self._batch_size, self._device, self._dtype = batch_size, device, dtype

    @property
    def keys(self) -> list[str]:
        """Content address of every view's features, in view order."""
        fingerprint = f"{self._teacher.fingerprint()} computed={self._dtype or torch.float32}"
        return [feature_key(str(view), fingerprint, self._grid) for view in self._bank.index["view_sha256"]]

    @torch.no_grad()
    def __call__(self, views: list[int]) -> Rows:
        """Features of ``views``, float16 (n, maps, C, grid, grid)."""
        rows = []
        for start in range(0, len(views), self._batch_size):
            images = torch.from_numpy(self._bank.views(views[start : start + self._batch_size])).to(self._device)
            with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
                maps = self._teacher(images)
            rows.append(to_grid(maps, self._grid).half().cpu().numpy())
        return np.concatenate(rows)
