"""Closed forms of the losses."""

from __future__ import annotations

import math

import pytest
import torch

from stlm_core.models.two_stream import StreamFeatures
from stlm_core.training.losses import aggregation_loss, dice_loss, distillation_loss, focal_loss, mask_to_grid
from stlm_core.training_settings import FaConfig


def unit(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, len(values), 1, 1)


def test_distillation_loss_is_zero_on_agreement_and_eight_on_opposition():
    a, b = unit(1.0, 0.0), unit(0.0, 1.0)
    targets = StreamFeatures([a, b], [b, a])
    assert distillation_loss(StreamFeatures([a, b], [b, a]), targets).item() == 0.0
    assert distillation_loss(StreamFeatures([-a, -b], [-b, -a]), targets).item() == 8.0
    # Only the denoising stream's first map is off by a right angle.
    assert distillation_loss(StreamFeatures([a, b], [a, a]), targets).item() == 1.0


def test_a_stream_without_targets_does_not_count():
    a, b = unit(1.0, 0.0), unit(0.0, 1.0)
    assert distillation_loss(StreamFeatures([-a], [a]), StreamFeatures([], [b])).item() == 1.0


@pytest.mark.parametrize(
    ("logit", "target", "gamma"), [(0.0, 1.0, 4.0), (2.0, 0.0, 4.0), (-1.5, 1.0, 2.0), (3.0, 1.0, 0.0)]
)
def test_focal_loss_is_its_formula(logit, target, gamma):
    p = 1 / (1 + math.exp(-logit))
    p_true = p if target == 1 else 1 - p
    expected = -((1 - p_true) ** gamma) * math.log(p_true)
    loss = focal_loss(torch.full((1, 1, 1), logit), torch.full((1, 1, 1), target), gamma)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_aggregation_loss_adds_weighted_l1():
    logits, target = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    without = aggregation_loss(logits, target, FaConfig(l1_weight=0))
    found = aggregation_loss(logits, target, FaConfig(l1_weight=3, focal_weight=2))
    assert found.item() == pytest.approx(2 * without.item() + 3 * 0.5)


def test_dice_is_that_of_the_anomalous_images_alone():
    logits = torch.tensor([[[30.0, -30.0]], [[30.0, 30.0]], [[-30.0, -30.0]]])
    target = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
    assert dice_loss(logits, target).item() == pytest.approx((0 + (1 - 1 / 3)) / 2)
    assert dice_loss(logits[1:2], target[1:2]).item() == 0
    with_dice = aggregation_loss(logits, target, FaConfig(dice_weight=2.0))
    without = aggregation_loss(logits, target, FaConfig())
    assert with_dice.item() == pytest.approx(without.item() + 2 / 3, rel=1e-5)


def test_a_grid_cell_is_anomalous_when_half_of_it_is():
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[0, :16, :16] = 1
    mask[0, 16:18, 16:18] = 1
    grid = mask_to_grid(mask, 2, 2)
    assert grid.tolist() == [[[1.0, 0.0], [0.0, 0.0]]]
