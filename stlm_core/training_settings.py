"""The settings of the two training stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stlm_core.settings_section import Fraction, Section


class OptimiserConfig(Section):
    """``name`` with its learning rate and decay; ``schedule`` over all steps after a linear warm-up."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(5e-4, gt=0)
    head_lr: float | None = Field(None, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_fraction: Fraction = Field(0.05, ge=0, lt=1)
    clip_norm: float | None = Field(1.0, gt=0)


class TrainingConfig(Section):
    """What the two training stages have in common. Counts are steps; ``batch_size`` is images."""

    steps: int = Field(400, ge=1)
    batch_size: int = Field(4, ge=1)
    optimiser: OptimiserConfig = OptimiserConfig()
    validate_every: int = Field(100, ge=1)
    checkpoint_every: int = Field(50, ge=1)
    autocast: Literal["auto", "off", "bf16", "fp16"] = "auto"
    seed: int = 0


class DistillConfig(TrainingConfig):
    """Training of the two-stream model on the teacher's cached features."""


class FaConfig(TrainingConfig):
    """Training of the feature aggregation; with ``joint_finetune`` its loss reaches the streams too,
    of which there must be one that is trained: not with ``model.denoising_stream: false``.

    ``optimiser.lr`` is for the residual blocks, ``optimiser.head_lr`` (null: the same) for pyramid and head,
    ``stream_lr`` for the streams, ``skip_lr`` for the two numbers of the discrepancy skip.
    """

    joint_finetune: bool = True
    stream_lr: float = Field(1e-4, gt=0)
    skip_lr: float = Field(0.02, gt=0)
    distill_weight: float = Field(1.0, ge=0)
    focal_gamma: float = Field(4.0, ge=0)
    focal_weight: float = Field(1.0, ge=0)
    l1_weight: float = Field(1.0, ge=0)
    dice_weight: float = Field(0.0, ge=0)
