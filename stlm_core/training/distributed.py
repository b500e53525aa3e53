"""Several processes that train one model together, each on its share of every batch.

All losses are means over images and positions, so with equal shares the mean over the ranks, of a loss or of its
gradient, is that of the whole batch. What is left is batch normalisation, whose statistics are those of the batch:
:class:`SharedBatchNorm` takes them over all ranks. No module draws random numbers while it trains.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from stlm_core.errors import StlmError

T = TypeVar("T")
# Ranks wait for rank 0's checks and validations, however long these take; those of a dead rank are ended from outside.
_PATIENCE = timedelta(days=1)


class LostRank(StlmError):
    """Another rank is gone. Never the cause of a failure, always its consequence."""


@dataclass(frozen=True)
class Ranks:
    """This process among ``count`` that train together. Alone, every method leaves the numbers as they are."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the rank that validates and writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Which positions of a batch are this rank's; ``batch_size`` is a multiple of ``count``."""
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def wait(self) -> None:
        """Return when every rank is here."""
        if self.count > 1:
            with _together():
                dist.all_reduce(torch.zeros(1))

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, on every rank; it runs there only."""
        if self.count == 1:
            return make()
        held: list[Any] = [make() if self.main else None]
        with _together():
            dist.broadcast_object_list(held, device=torch.device("cpu"))
        made: T = held[0]
        return made

    def means(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars averaged over the ranks."""
        own = {name: float(value.detach()) for name, value in values.items()}
        if self.count == 1:
            return own
        total = torch.tensor(list(own.values()), dtype=torch.float64)
        with _together():
            dist.all_reduce(total)
        return dict(zip(own, (total / self.count).tolist(), strict=True))

    def average_gradients(self, optimiser: torch.optim.Optimizer) -> None:
        """Replace the gradients of what ``optimiser`` trains by their mean over the ranks, in one message."""
        if self.count == 1:
            return
        trained = (parameter for group in optimiser.param_groups for parameter in group["params"])
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with _together():
            dist.all_reduce(flat)
        flat /= self.count
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def require_same(self, what: str, value: int) -> None:
        """Make sure that ``value`` is the same on every rank.

        Raises:
            StlmError: it is not.
        """
        if self.count == 1:
            return
        gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        with _together():
            dist.all_gather(gathered, torch.tensor([value]))
        found = [int(one) for one in gathered]
        if len(set(found)) > 1:
            raise StlmError(f"{what} differs between the processes: {found}; run the same command again")

    def share_statistics(self, module: nn.Module) -> None:
        """Replace every batch normalisation inside ``module`` by one over all ranks; parameters stay the same objects.

        Names and values of the state stay as they are, and in eval mode nothing changes.
        """
        if self.count == 1:
            return
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, SharedBatchNorm.of(child))
            else:
                self.share_statistics(child)


ALONE = Ranks()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the ranks that the launcher's environment variables name; on CUDA each takes the device of its number.

    All ranks are on this machine and talk over its loopback interface.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"  # waiting is done by gloo: under nccl it would keep every GPU spinning
    with _together():
        dist.init_process_group(backend, timeout=_PATIENCE)
    yield Ranks(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after a failure: it can wait for ranks that are gone


@contextmanager
def _together() -> Iterator[None]:
    """Give the backends' many errors about a rank that is gone one name."""
    try:
        yield
    except RuntimeError as error:
        raise LostRank(f"another process is gone: {error}") from error


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation over the batches of all ranks together, on CPU and CUDA; every rank's is equally large.

    Torch's own SyncBatchNorm knows CUDA only, so that no test without a GPU could say anything about it.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> SharedBatchNorm:
        """The same normalisation, with the same parameters and buffers, over all ranks."""
        shared = cls(norm.num_features, norm.eps, norm.momentum)
        shared.weight, shared.bias = norm.weight, norm.bias
        shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
        shared.num_batches_tracked = norm.num_batches_tracked
        return shared.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, ...); in training mode by the statistics of all ranks' N."""
        if not self.training:
            return super().forward(input)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, variance, count = _shared_statistics(input.detach())
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        statistics = mean, variance, self.eps
        out: Tensor = _Normalise.apply(input, self.weight, self.bias, *statistics)  # type: ignore[no-untyped-call]
        return out

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions: channels are the second."""


def _but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _along_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _shared_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance (C,) of x (N, C, ...) over all ranks in float32, and how many values a channel has.

    The ranks' own means and variances are combined, rather than sums of squares, which would cancel.
    """
    variance, mean = torch.var_mean(x.float(), _but_channels(x), correction=0)
    own = torch.stack([mean, variance])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    with _together():
        dist.all_gather(gathered, own)
    means, variances = torch.stack(gathered).unbind(1)  # (ranks, C) each
    return means.mean(0), variances.mean(0) + means.var(0, correction=0), x.numel() // x.shape[1] * len(gathered)


class _Normalise(torch.autograd.Function):
    """Batch normalisation by given statistics of all ranks' inputs, which the gradient goes through too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        over, along = _but_channels(x), gradient.float()
        normalised = (x.float() - _along_channels(mean, x)) * _along_channels(scale, x)
        sums = torch.stack([along.sum(over), (along * normalised).sum(over)])  # (2, C)
        shared = sums.clone()
        with _together():
            dist.all_reduce(shared)
        shared /= x.numel() // x.shape[1] * dist.get_world_size()
        inner = along - _along_channels(shared[0], x) - normalised * _along_channels(shared[1], x)
        own = (inner * _along_channels(weight * scale, x)).to(x.dtype)
        # Weight and bias get this rank's part, as every other parameter: gradients are averaged after the backward.
        return own, sums[1], sums[0], None, None, None
