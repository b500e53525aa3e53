"""Batches of neighbours of one size, in order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from stlm_core.evaluation.detection import detect


class Brightness(nn.Module):
    """A detector whose map is the red channel and whose score is the map's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        assert image.dtype == torch.uint8
        assert torch.is_inference_mode_enabled()
        self.batches.append(tuple(image.shape))
        anomaly_map = image[..., 0].float() / 255
        return anomaly_map.flatten(1).mean(1), anomaly_map


def images(*sizes: tuple[int, int]) -> list[tuple[int, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(n, rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for n, size in enumerate(sizes)]


def test_scores_and_maps_come_in_order_whatever_the_sizes() -> None:
    detector = Brightness()
    given = images((8, 8), (8, 8), (8, 8), (4, 9), (8, 8), (8, 8))
    found = list(detect(detector, iter(given), torch.device("cpu"), batch_size=2))
    assert [one.item for one in found] == list(range(6))
    for one, (_, image) in zip(found, given, strict=True):
        np.testing.assert_array_equal(one.image, image)
        np.testing.assert_allclose(one.anomaly_map, image[..., 0] / 255, rtol=1e-6)
        assert one.anomaly_map.dtype == np.float32
        np.testing.assert_allclose(one.raw_score, image[..., 0].mean() / 255, rtol=1e-5)
    assert [shape[0] for shape in detector.batches] == [2, 1, 1, 2]


def test_large_images_are_not_piled_up() -> None:
    detector = Brightness()
    list(detect(detector, images(*[(2048, 4096)] * 3), torch.device("cpu"), batch_size=8))
    assert [shape[0] for shape in detector.batches] == [2, 1]


def test_no_images_no_detections() -> None:
    assert list(detect(Brightness(), iter([]), torch.device("cpu"), batch_size=4)) == []
