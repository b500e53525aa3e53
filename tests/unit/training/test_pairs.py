"""Pairs follow from seed and step alone and show what they claim."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from stlm_core.cache.store import FeatureCache, fill, write_index
from stlm_core.errors import UserError
from stlm_core.synthesis.bank import FRACTIONS, INDEX, MASKS, VIEWS, ArrayWriter, Bank
from stlm_core.training.pairs import TrainingPairs

IMAGES, VARIANTS, SIZE = 5, 3, 16


@pytest.fixture
def folder(tmp_path):
    """A bank of constant views: view v has grey level v, so every batch shows where it comes from."""
    rows, count = [], IMAGES * (VARIANTS + 1)
    for image in range(IMAGES):
        clean = image * (VARIANTS + 1)
        for variant in range(VARIANTS + 1):
            rows.append(
                {
                    "view": clean + variant,
                    "image": f"sha{image}",
                    "path": f"{image}.png",
                    "split": "validation" if image == IMAGES - 1 else "train",
                    "variant": variant,
                    "clean_view": clean,
                    "mask_fraction": float(variant > 0),
                    "seed": 0,
                    "degrees": 0.0,
                    "view_sha256": f"v{clean + variant}",
                }
            )
    pd.DataFrame(rows).to_parquet(tmp_path / INDEX)
    with (
        ArrayWriter(tmp_path / VIEWS, (count, SIZE, SIZE, 3)) as views,
        ArrayWriter(tmp_path / MASKS, (count, SIZE, 2)) as masks,
        ArrayWriter(tmp_path / FRACTIONS, (count, SIZE, SIZE, 3)) as fractions,
    ):
        fractions.append(np.full((count, SIZE, SIZE, 3), 127, np.uint8))
        for row in rows:
            views.append(np.full((1, SIZE, SIZE, 3), row["view"], np.uint8))
            masks.append(np.full((1, SIZE, 2), 255 if row["variant"] else 0, np.uint8))
    keys = [f"{number:064x}" for number in range(count)]
    fill(tmp_path, keys, lambda wanted: np.stack([np.full((2, 4, 1, 1), view, np.float16) for view in wanted]))
    write_index(tmp_path, keys)
    return tmp_path


def pairs(folder, split="train", probability=0.5):
    return TrainingPairs(Bank.open(folder), FeatureCache.open(folder), split, probability)


def test_a_batch_shows_view_mask_and_both_features_of_the_same_image(folder):
    batch = pairs(folder).draw(seed=1, step=0, size=64)
    seen = batch.images[:, 0, 0, 0].long()
    assert torch.equal(batch.observed[:, 0, 0, 0, 0].long(), seen)
    assert torch.equal(batch.clean[:, 0, 0, 0, 0].long(), seen // (VARIANTS + 1) * (VARIANTS + 1))
    assert torch.equal(batch.masks[:, 0, 0] > 0, seen % (VARIANTS + 1) > 0)
    assert int(seen.max()) < (IMAGES - 1) * (VARIANTS + 1)  # never a validation image


def test_the_same_step_gives_the_same_batch_and_another_seed_another(folder):
    source = pairs(folder)
    assert torch.equal(source.draw(1, 7, 8).images, pairs(folder).draw(1, 7, 8).images)
    assert not torch.equal(source.draw(1, 7, 8).images, source.draw(2, 7, 8).images)


def test_an_epoch_shows_every_image_once(folder):
    source = pairs(folder)
    for epoch in range(3):
        steps = range(epoch * 2, epoch * 2 + 2)
        seen = torch.cat([source.draw(3, step, 2).images[:, 0, 0, 0] for step in steps]).long() // (VARIANTS + 1)
        assert sorted(seen.tolist()) == [0, 1, 2, 3]


def test_what_a_seed_draws_stays_what_it_was(folder):
    """A bank and a seed give the same training for ever; batches of six from four images cross the epochs."""
    source = pairs(folder)
    shown = [source.draw(7, step, 6).images[:, 0, 0, 0].tolist() for step in range(5)]
    assert shown == [
        [13, 4, 0, 8, 8, 4],
        [12, 3, 10, 5, 0, 15],
        [12, 0, 8, 5, 6, 13],
        [0, 11, 10, 4, 15, 0],
        [8, 12, 0, 4, 12, 8],
    ]
    assert source.draw(7, 1, 6).images[:, 0, 0, 0].tolist() == shown[1]  # whatever was drawn before


def test_parts_of_a_batch_are_its_positions(folder):
    source = pairs(folder)
    whole = source.draw(7, 1, 6)
    parts = [source.draw(7, 1, 6, slice(start, start + 2)) for start in (0, 2, 4)]
    for name in ("images", "masks", "observed", "clean"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


@pytest.mark.parametrize(("probability", "low", "high"), [(1.0, 1.0, 1.0), (0.5, 0.4, 0.6), (0.1, 0.05, 0.17)])
def test_the_share_of_anomalous_pairs_is_as_configured(folder, probability, low, high):
    masks = pairs(folder, probability=probability).draw(0, 0, 400).masks
    assert low <= float((masks[:, 0, 0] > 0).float().mean()) <= high


def test_moments_are_of_the_clean_views_only(folder):
    clean = np.array([image * (VARIANTS + 1) for image in range(IMAGES - 1)], dtype=float)
    mean, mean_square = pairs(folder).moments()
    assert mean.tolist() == [[clean.mean()] * 4] * 2
    assert mean_square.tolist() == [[(clean**2).mean()] * 4] * 2


def test_of_a_cache_of_clean_views_no_other_is_read(folder):
    source = TrainingPairs(Bank.open(folder), FeatureCache.open(folder), "train", 1.0, clean_only=True)
    batch = source.draw(1, 0, 8)
    assert torch.equal(batch.observed, batch.clean)
    assert torch.equal(batch.clean[:, 0, 0, 0, 0].long() % (VARIANTS + 1), torch.zeros(8, dtype=torch.int64))
    assert bool((batch.masks > 0).all())  # what is shown is anomalous all the same


def test_a_cache_of_another_bank_and_an_absent_split_are_refused(folder, tmp_path_factory):
    with pytest.raises(UserError, match="no `test` images"):
        pairs(folder, split="test")
    other = tmp_path_factory.mktemp("other")
    fill(other, ["0" * 64], lambda wanted: np.zeros((1, 2, 4, 1, 1), np.float16))
    write_index(other, ["0" * 64])
    with pytest.raises(UserError, match="the teacher cache holds 1 views, the bank 20"):
        TrainingPairs(Bank.open(folder), FeatureCache.open(other), "train", 0.5)
