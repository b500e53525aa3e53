"""Schedules, groups and mixed precision."""

from __future__ import annotations

import pytest
import torch

from stlm_core.training.optimisation import autocast_dtype, build_optimiser, schedule_factor, set_learning_rate
from stlm_core.training_settings import OptimiserConfig


def test_cosine_rises_falls_and_ends_near_zero():
    config = OptimiserConfig(schedule="cosine", warmup_fraction=0.1)
    factors = [schedule_factor(config, step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1, abs=0.001)
    assert max(factors) == pytest.approx(factors[9], abs=0.02)
    assert factors[50] == pytest.approx(0.5, abs=0.001)
    assert factors[99] < 0.001


def test_constant_stays_after_the_warm_up():
    config = OptimiserConfig(schedule="constant", warmup_fraction=0.0)
    assert {schedule_factor(config, step, 10) for step in range(10)} == {1.0}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_groups_keep_their_own_peak(name):
    a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimiser = build_optimiser(OptimiserConfig(name=name), [([a], 0.1), ([b], 0.01)])
    set_learning_rate(optimiser, 0.5)
    assert [group["lr"] for group in optimiser.param_groups] == [0.05, 0.005]
    (a + b).sum().backward()
    optimiser.step()
    assert a.item() < b.item() < 1


def test_autocast_settings():
    cpu = torch.device("cpu")
    assert autocast_dtype("off", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    assert autocast_dtype("auto", cpu) in (None, torch.bfloat16)
