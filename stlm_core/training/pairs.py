"""Training pairs: what the students see, what the teacher said about it, and the mask.

Which pairs a step sees follows from the seed and the step's number alone, so a resumed run needs no sampler state.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stlm_core.cache.store import FeatureCache
from stlm_core.errors import UserError
from stlm_core.models.detector import Detector
from stlm_core.models.teacher_stream import TeacherStreams
from stlm_core.models.two_stream import StreamFeatures
from stlm_core.seeding import derive_rng
from stlm_core.synthesis.bank import Bank
from stlm_core.training.fresh import FreshViews

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """``images`` uint8 (N, S, S, 3); ``masks`` uint8 (N, S, S) of 0 and 1; ``observed`` and ``clean`` teacher features
    float32 (N, maps, C, h, w), L2-normalised. A batch of fresh views has no features but ``clean_images``, uint8
    (N, S, S, 3): the images without their anomalies, for the teacher to see."""

    images: Tensor
    masks: Tensor
    observed: Tensor | None
    clean: Tensor | None
    clean_images: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        parts = (self.images, self.masks, self.observed, self.clean, self.clean_images)
        return Batch(*(None if part is None else part.to(device, non_blocking=True) for part in parts))  # type: ignore[arg-type]


def targets_of(batch: Batch, detector: Detector) -> StreamFeatures:
    """What the trained streams of ``detector`` should yield for ``batch``: from its features, or of fresh views from
    the plain stream, which is the teacher."""
    streams = detector.streams
    if isinstance(streams, TeacherStreams) and batch.clean_images is not None:
        return streams.teach(detector.preprocess(batch.clean_images))
    assert batch.observed is not None
    assert batch.clean is not None
    return streams.targets(batch.observed, batch.clean)


class TrainingPairs:
    """The pairs of one split of a bank: every pseudo-anomalous variant with its clean counterpart.

    With probability ``1 - probability`` a pair is drawn as clean against clean (paper section 3.1).

    ``clean_only``: the cache holds the features of clean views; ``observed`` is then no more than ``clean``. With
    ``fresh`` the pairs are drawn anew in every step, from the good images as they are; the cache then serves
    :meth:`moments` alone.

    Raises:
        UserError: the split has no pairs.
    """

    def __init__(
        self,
        bank: Bank,
        cache: FeatureCache,
        split: str,
        probability: float,
        *,
        clean_only: bool = False,
        fresh: FreshViews | None = None,
    ) -> None:
        if len(cache) != len(bank.index):
            raise UserError(f"the teacher cache holds {len(cache)} views, the bank {len(bank.index)}; cache again")
        wanted = bank.index["seed"] == 0 if fresh else bank.index["variant"] > 0  # the images as they are, or variants
        rows = bank.index[(bank.index["split"] == split) & wanted]
        if rows.empty:
            raise UserError(f"the bank has no `{split}` images; check data.{split}_fraction and the line's images")
        self._bank, self._cache, self._probability, self._clean_only = bank, cache, probability, clean_only
        self._variant_view = rows["view"].to_numpy(dtype=np.int64)
        self._clean_view = rows["clean_view"].to_numpy(dtype=np.int64)
        self._by_image = _positions_by_value(rows["image"].astype("category").cat.codes.to_numpy(dtype=np.int64))
        self.fresh, self._maker = fresh, ThreadPoolExecutor(1)
        self._upcoming: tuple[tuple[int, int, int, slice], Future[Batch]] | None = None

    @property
    def images(self) -> int:
        """Number of different source images."""
        return len(self._by_image)

    @property
    def varied(self) -> FreshViews | None:
        """What shows an image again in another pose or before another camera, where the settings allow any other."""
        return self.fresh if self.fresh is not None and self.fresh.varied else None

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

        Only the positions ``part`` of it are read and returned. Fresh pairs of the next step are made in the
        background meanwhile.
        """
        if self.fresh is None:
            return self._drawn(seed, step, size, part)
        wanted = (seed, step, size, part)
        upcoming = self._upcoming
        batch = upcoming[1].result() if upcoming is not None and upcoming[0] == wanted else self._drawn(*wanted)
        following = (seed, step + 1, size, part)
        self._upcoming = following, self._maker.submit(self._drawn, *following)
        return batch

    def _drawn(self, seed: int, step: int, size: int, part: slice) -> Batch:
        rng = derive_rng("pairs", seed, step)
        chosen = np.array([int(rng.choice(self._by_image[image])) for image in self._images_of(seed, step, size)])
        anomalous = rng.random(size) < self._probability
        if self.fresh is not None:
            donors = self._clean_view[rng.integers(len(self._clean_view), size=size)]
            good = self._clean_view[chosen]
            shown, masks, clean = self.fresh.draw(
                self._bank.views(good[part].tolist()),
                self._bank.views(donors[part].tolist()),
                anomalous[part],
                seed,
                step,
                part.start or 0,
            )
            return Batch(
                torch.from_numpy(shown), torch.from_numpy(masks.astype(np.uint8)), None, None, torch.from_numpy(clean)
            )
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
