"""Optimisers, learning-rate schedule and mixed precision, as configured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from stlm_core.training_settings import OptimiserConfig

Autocast = Literal["auto", "off", "bf16", "fp16"]


def build_optimiser(
    config: OptimiserConfig, groups: Iterable[tuple[Iterable[nn.Parameter], float]]
) -> torch.optim.Optimizer:
    """An optimiser over groups of (parameters, peak learning rate)."""
    listed = [{"params": list(parameters), "lr": lr, "peak_lr": lr} for parameters, lr in groups]
    if config.name == "sgd":
        return torch.optim.SGD(listed, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(listed, betas=config.betas, weight_decay=config.weight_decay)


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def schedule_factor(config: OptimiserConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at ``step`` (from 0): linear warm-up, then constant or half a cosine to 0."""
    warmup = config.warmup_fraction * steps
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if config.schedule == "constant":
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def set_learning_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Put every group at ``factor`` of its peak learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor


def autocast_dtype(setting: Autocast, device: torch.device) -> torch.dtype | None:
    """The reduced dtype to compute in, or None for float32.

    ``auto`` takes bfloat16 where the hardware has it (on a CPU only with native instructions: emulated, it is slower
    than float32) and float16 on older CUDA devices.
    """
    if setting == "off":
        return None
    if setting == "bf16":
        return torch.bfloat16
    if setting == "fp16":
        return torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else None


def pick_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
