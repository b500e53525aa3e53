"""What the tests of parallel training run in the workers, which import it by name."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from stlm_core.config import LineConfig
from stlm_core.errors import StlmError, UserError
from stlm_core.steps.workspace import Workspace
from stlm_core.training.distributed import ALONE, Ranks


def one_step(ranks: Ranks) -> dict[str, Tensor]:
    """One step of a small network with batch normalisation on this rank's share of a batch of four, and what it did."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 1, 1))
    optimiser = torch.optim.SGD([{"params": network.parameters()}], lr=0.1)
    ranks.share_statistics(network)
    batch = torch.randn(4, 3, 6, 5, generator=generator) * 3 + 2
    batch[0] *= 5  # the ranks' own statistics differ
    part = batch[ranks.share(4)].requires_grad_()
    loss = network(part).square().mean()
    loss.backward()
    ranks.average_gradients(optimiser)
    assert part.grad is not None
    found = {
        "loss": torch.tensor(ranks.means({"loss": loss})["loss"]),
        # A rank's own loss is the mean of its part, the batch's the mean of those.
        "input gradient": part.grad / ranks.count,
        **{f"gradient of {name}": parameter.grad.clone() for name, parameter in network.named_parameters()},
        **{name: value.clone() for name, value in network.state_dict().items()},
    }
    network.eval()
    return found | {"in eval mode": network(part).detach()}


def normalise_alone_and_in_reduced_precision(config: LineConfig, _: Workspace, folder: Path, ranks: Ranks) -> str:
    """Save :func:`one_step` of this rank, what rank 0 told it, and the dtype that a bfloat16 batch keeps."""
    found: dict[str, object] = dict(one_step(ranks))
    found["told"] = ranks.from_main(lambda: {"by": ranks.rank})
    layers = nn.Sequential(nn.BatchNorm2d(3))
    ranks.share_statistics(layers)
    reduced = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    out = layers(reduced)
    out.float().sum().backward()
    assert reduced.grad is not None
    found["dtypes"] = [str(out.dtype), str(reduced.grad.dtype), str(layers[0].running_mean.dtype)]
    try:
        ranks.require_same("the step", ranks.rank)
    except StlmError as error:
        found["error"] = str(error)
    torch.save(found, folder / f"{ranks.rank}.pt")
    ranks.wait()
    return f"rank {ranks.rank} of {config.name}"


def fail(config: LineConfig, _: Workspace, folder: Path, ranks: Ranks) -> str:
    """Rank 1 fails in the way that the folder is named for; rank 0 waits for it."""
    assert ranks != ALONE
    if ranks.main:
        ranks.wait()
    print("a last word", file=sys.stderr)
    match folder.name:
        case "mistake":
            raise UserError("images: there are none")
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "weights")
        case "bug":
            raise ZeroDivisionError("of the test")
    os.kill(os.getpid(), signal.SIGKILL)
    return config.name
