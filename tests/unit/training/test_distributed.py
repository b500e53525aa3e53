"""Shares of a batch, and what one rank alone must not change; for ranks together see steps/test_parallel_training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.training.distributed import ALONE, Ranks, SharedBatchNorm


@pytest.mark.parametrize("count", [1, 2, 3, 6, 12])
def test_shares_are_equal_and_together_the_batch(count: int) -> None:
    batch = list(range(12))
    shares = [batch[Ranks(rank, count).share(12)] for rank in range(count)]
    assert {len(share) for share in shares} == {12 // count}
    assert [position for share in shares for position in share] == batch


def test_alone_nothing_changes() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3))
    ALONE.share_statistics(network)
    assert type(network[0]) is nn.BatchNorm2d
    ALONE.wait()
    ALONE.require_same("nothing", 1)
    assert ALONE.main
    assert ALONE.from_main(lambda: 3) == 3
    assert ALONE.means({"a": torch.tensor(0.1)}) == {"a": float(torch.tensor(0.1))}


def test_sharing_statistics_keeps_names_parameters_and_values() -> None:
    detector = Detector(DetectorFacts(64, "conv3x3", "unit")).eval()
    parameters = dict(detector.named_parameters())
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = detector(image)
    Ranks(0, 2).share_statistics(detector)
    kinds = {type(module) for module in detector.modules()}
    assert SharedBatchNorm in kinds
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d}
    assert all(parameters[name] is parameter for name, parameter in detector.named_parameters())
    assert list(detector.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    with torch.no_grad():
        for ours, theirs in zip(detector(image), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_training_draws_no_random_numbers() -> None:
    """Ranks hold the same random state: dropout, were there any, would drop the same on all of them."""
    detector = Detector(DetectorFacts(64, "conv3x3", "unit")).train()
    before = torch.get_rng_state()
    detector(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)
