"""Running a detector over images one after the other, in batches where sizes allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

T = TypeVar("T")
_BATCH_PIXELS = 1 << 24  # a batch of large photographs is kept below 16 megapixels


@dataclass(frozen=True, slots=True)
class Detected(Generic[T]):
    """One image with its raw score in [0, 1] and anomaly map (H, W) float32; ``item`` is the caller's own."""

    item: T
    image: npt.NDArray[np.uint8]
    raw_score: float
    anomaly_map: npt.NDArray[np.float32]


def detect(
    detector: nn.Module,
    images: Iterable[tuple[T, npt.NDArray[np.uint8]]],
    device: torch.device,
    batch_size: int,
) -> Iterator[Detected[T]]:
    """Scores and maps in the order of ``images``: pairs of anything and uint8 (H, W, 3) RGB.

    ``detector``: uint8 (N, H, W, 3) -> raw scores (N,), maps (N, H, W), in eval mode on ``device``. Neighbours of one
    size share a batch of at most ``batch_size``; only one batch is in memory.
    """
    for batch in _of_one_size(images, batch_size):
        pixels = torch.from_numpy(np.stack([image for _, image in batch])).to(device)
        with torch.inference_mode():
            raw, maps = detector(pixels)
        scores, anomaly_maps = raw.float().cpu().numpy(), maps.float().cpu().numpy()
        for (item, image), score, anomaly_map in zip(batch, scores, anomaly_maps, strict=True):
            yield Detected(item, image, float(score), anomaly_map)


def _of_one_size(
    images: Iterable[tuple[T, npt.NDArray[np.uint8]]], batch_size: int
) -> Iterator[list[tuple[T, npt.NDArray[np.uint8]]]]:
    batch: list[tuple[T, npt.NDArray[np.uint8]]] = []
    for item, image in images:
        pixels = image.shape[0] * image.shape[1]
        full = len(batch) == batch_size or (len(batch) + 1) * pixels > _BATCH_PIXELS
        if batch and (full or batch[0][1].shape != image.shape):
            yield batch
            batch = []
        batch.append((item, image))
    if batch:
        yield batch
