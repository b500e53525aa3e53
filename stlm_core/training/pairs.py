"""Training pairs: what the students see, what the teacher said about it, and the mask.

Which pairs a step sees follows from the seed and the step's number alone, so a resumed run needs no sampler state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stlm_core.cache.store import FeatureCache
from stlm_core.errors import UserError
from stlm_core.seeding import derive_rng
from stlm_core.synthesis.bank import Bank

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """``images`` uint8 (N, S, S, 3); ``masks`` uint8 (N, S, S) of 0 and 1; ``observed`` and ``clean`` teacher features
    float32 (N, maps, C, h, w), L2-normalised."""

    images: Tensor
    masks: Tensor
    observed: Tensor
    clean: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved = (part.to(device, non_blocking=True) for part in (self.images, self.masks, self.observed, self.clean))
        return Batch(*moved)


class TrainingPairs:
    """The pairs of one split of a bank: every pseudo-anomalous variant with its clean counterpart.

    With probability ``1 - probability`` a pair is drawn as clean against clean (paper section 3.1).

    ``clean_only``: the cache holds the features of clean views; ``observed`` is then no more than ``clean``.

    Raises:
        UserError: the split has no pairs.
    """

    def __init__(
        self, bank: Bank, cache: FeatureCache, split: str, probability: float, *, clean_only: bool = False
    ) -> None:
        if len(cache) != len(bank.index):
            raise UserError(f"the teacher cache holds {len(cache)} views, the bank {len(bank.index)}; cache again")
        rows = bank.index[(bank.index["split"] == split) & (bank.index["variant"] > 0)]
        if rows.empty:
            raise UserError(f"the bank has no `{split}` images; check data.{split}_fraction and the line's images")
        self._bank, self._cache, self._probability, self._clean_only = bank, cache, probability, clean_only
        self._variant_view = rows["view"].to_numpy(dtype=np.int64)
        self._clean_view = rows["clean_view"].to_numpy(dtype=np.int64)
        self._by_image = _positions_by_value(rows["image"].astype("category").cat.codes.to_numpy(dtype=np.int64))

    @property
    def images(self) -> int:
        """Number of different source images."""
        return len(self._by_image)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and mean square over all clean views and positions of the teacher's features, (maps, C) float64 each."""
        views = np.unique(self._clean_view)
        first, second = 0.0, 0.0
        for view in views:
            features = self._cache.read([view])[0].astype(np.float64)
            first = first + features.mean((-2, -1)) / len(views)
            second = second + (features**2).mean((-2, -1)) / len(views)
        return torch.from_numpy(first), torch.from_numpy(second)

    def draw(self, seed: int, step: int, size: int, part: slice = slice(None)) -> Batch:
        """The batch of ``step``: images without replacement within an epoch, a random variant of each.

        Only the positions ``part`` of it are read and returned.
        """
        rng = derive_rng("pairs", seed, step)
        chosen = np.array([int(rng.choice(self._by_image[image])) for image in self._images_of(seed, step, size)])
        anomalous = rng.random(size) < self._probability
        views = np.where(anomalous, self._variant_view[chosen], self._clean_view[chosen])
        return self._batch(views[part], chosen[part])

    def _batch(self, views: Numbers, pairs: Numbers) -> Batch:
        """The batch that shows ``views`` against the clean counterparts of ``pairs``."""
        clean = torch.from_numpy(self._cache.read(self._clean_view[pairs])).float()
        observed = clean if self._clean_only else torch.from_numpy(self._cache.read(views)).float()
        return Batch(
            torch.from_numpy(self._bank.views(views.tolist())),
            torch.from_numpy(self._bank.masks(views.tolist()).astype(np.uint8)),
            observed,
            clean,
        )

    def _images_of(self, seed: int, step: int, size: int) -> list[int]:
        places = (divmod(position, self.images) for position in range(step * size, (step + 1) * size))
        return [int(_epoch_order(seed, epoch, self.images)[place]) for epoch, place in places]


def _positions_by_value(values: npt.NDArray[np.integer[Any]]) -> list[Numbers]:
    """Where each of the values 0, 1, ... occurs, positions in rising order."""
    return np.split(np.argsort(values, kind="stable"), np.cumsum(np.bincount(values))[:-1])


@lru_cache(maxsize=1)  # the positions of a training rise, so only the latest epoch is ever asked for again
def _epoch_order(seed: int, epoch: int, images: int) -> Numbers:
    return derive_rng("epoch", seed, epoch).permutation(images)
