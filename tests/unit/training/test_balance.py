"""The memory's share: from the good parts' unrest, the same for any scale of either opinion, and within its limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch

from stlm_core.models.detector import Detector, DetectorFacts, upsample
from stlm_core.models.feature_memory import FeatureMemory
from stlm_core.synthesis.bank import ArrayReader, Bank
from stlm_core.training.balance import memory_balance
from stlm_core.training.fresh import FreshViews

CPU = torch.device("cpu")
SIZE, IMAGES = 64, 12
FACTS = DetectorFacts(
    SIZE, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=False, memory=20
)


class Views(Bank):
    """Good images that differ in one grey level each, as a bank shows them; two of training, one turned."""

    def __init__(self, images: int) -> None:
        splits = ["validation"] * images + ["train"] * 2
        index = pd.DataFrame({"view": range(images + 3), "split": [*splits, "validation"], "seed": 0, "variant": 0})
        nothing = cast(ArrayReader, None)
        super().__init__(Path(), index, nothing, nothing, nothing)
        self.index.loc[images + 2, "seed"] = 5
        self.asked: list[int] = []

    def views(self, rows: Sequence[int]) -> np.ndarray:
        self.asked += rows
        return np.stack([np.full((SIZE, SIZE, 3), number, np.uint8) for number in rows])

    def exact(self, rows: Sequence[int]) -> np.ndarray:
        return self.views(rows).astype(np.float32)


def share(decoder_unrest: float, memory_unrest: float, images: int = IMAGES) -> float:
    """With opinions whose largest cells vary by so much from image to image, on top of large constants."""
    bank = Views(images)
    drawn = torch.from_numpy(np.random.default_rng(0).standard_normal((2, images)).astype(np.float32))
    drawn = (drawn - drawn.mean(1, keepdim=True)) / drawn.std(1, keepdim=True)

    def opinions(x):
        numbers = (x[:, 0, 0, 0] * 255).round().long()
        maps = []
        for values, unrest, level in zip(drawn, (decoder_unrest, memory_unrest), (-40.0, 7.0), strict=True):
            one = torch.full((len(x), 32, 32), -100.0)
            one[:, 3, 4] = level + unrest * values[numbers]
            maps.append(one)
        return maps[0], maps[1]

    detector = SimpleNamespace(
        eval=lambda: None,
        preprocess=lambda images: images.permute(0, 3, 1, 2).float() / 255,
        opinions=opinions,
        memory=FeatureMemory(1),
    )
    found, _shift = memory_balance(cast(Detector, detector), bank, 0, CPU)
    assert set(bank.asked) == set(range(images))
    return found


@pytest.mark.parametrize(("decoder", "memory"), [(1.6, 1.0), (2.0, 1.0), (0.7, 0.3), (30.0, 15.0)])
def test_the_share_is_the_others_part_of_the_unrest(decoder, memory):
    assert share(decoder, memory) == pytest.approx(decoder / (decoder + memory), rel=1e-3)


def test_neither_is_silenced():
    assert share(50.0, 0.1) == 0.75
    assert share(0.1, 50.0) == 0.6
    assert share(0.0, 0.0) == 0.6


class OtherLamp(FreshViews):
    """Shows every image darker or brighter by up to ``change`` grey levels."""

    def __init__(self, change: int) -> None:
        self.change = change

    def again(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (image + 100 + rng.integers(-self.change, self.change + 1)).astype(np.uint8)


def test_the_opinion_that_another_lamp_upsets_is_heard_less():
    """The decoder's unrest is 6 whatever the light; the memory's distance is the mean grey level."""

    def opinions(x):
        grey = (x.mean((1, 2, 3)) * 255).round()
        decoder, memory = torch.zeros(len(x), 32, 32), torch.zeros(len(x), 32, 32)
        decoder += 6 * (grey % 2 * 2 - 1)[:, None, None]
        memory += grey[:, None, None]
        return decoder, memory

    detector = SimpleNamespace(
        eval=lambda: None,
        preprocess=lambda images: images.permute(0, 3, 1, 2).float() / 255,
        opinions=opinions,
        memory=FeatureMemory(1),
    )

    def found(change: int) -> float:
        return memory_balance(cast(Detector, detector), Views(40), 0, CPU, OtherLamp(change))[0]

    assert found(60) == 0.6
    assert memory_balance(cast(Detector, detector), Views(8), 0, CPU)[0] == pytest.approx(
        6 / (6 + np.arange(8).std()), abs=0.02
    )
    assert memory_balance(cast(Detector, detector), Views(8), 0, CPU, OtherLamp(0))[0] == pytest.approx(
        6 / (6 + np.arange(8).std()), abs=0.02
    )


def test_few_images_decide_nothing():
    assert share(9.0, 1.0, images=7) == 0.6


def remembering() -> tuple[Detector, FeatureMemory]:
    """An untrained detector with a memory of nothing in particular."""
    torch.manual_seed(0)
    detector = Detector(FACTS, top_pixels=1).eval()
    assert detector.memory is not None
    detector.memory.vectors.normal_()
    detector.memory.deviation.fill_(4.0)
    return detector, detector.memory


def test_score_and_map_are_weighted_each_by_its_share():
    detector, memory = remembering()
    x = torch.rand(2, 3, SIZE, SIZE)
    memory.map_share.fill_(0.3)
    memory.map_shift.fill_(-0.2)
    with torch.no_grad():
        logits, unfamiliar = detector.opinions(x)
        for weight in (0.25, 0.5, 0.7):
            memory.share.fill_(weight)
            shown, scored = detector.grid_maps(x)
            expected = (1 - weight) * logits + weight * unfamiliar
            torch.testing.assert_close(scored, expected.sigmoid(), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(shown, (0.7 * logits + 0.3 * unfamiliar - 0.2).sigmoid(), atol=1e-5, rtol=1e-4)


def test_the_score_is_read_from_the_map_that_is_scored():
    detector, memory = remembering()
    memory.share.fill_(0.75)
    images = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.no_grad():
        shown, scored = detector.grid_maps(detector.preprocess(images))
        score, anomaly_map = detector(images)
    largest = upsample(scored[:, None], (SIZE, SIZE)).flatten(1).amax(1)
    torch.testing.assert_close(score, largest)
    torch.testing.assert_close(anomaly_map, upsample(shown[:, None], (SIZE, SIZE))[:, 0])
    assert not torch.allclose(score, anomaly_map.flatten(1).amax(1), atol=1e-3)


def test_good_parts_have_the_same_largest_logits_in_score_and_map():
    detector, memory = remembering()
    bank = Views(IMAGES)
    share, shift = memory_balance(detector, bank, 0, CPU)
    assert share != 0.5
    memory.share.fill_(share)
    memory.map_shift.fill_(shift)
    with torch.no_grad():
        shown, scored = detector.grid_maps(detector.preprocess(torch.from_numpy(bank.views(range(IMAGES)))))
    assert float(shift) != 0
    largest = [one.double().logit().flatten(1).amax(1).mean() for one in (shown, scored)]
    torch.testing.assert_close(*largest, atol=1e-3, rtol=0)
