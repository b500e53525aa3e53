"""Losses of the two stages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stlm_core.models.two_stream import StreamFeatures


def distillation_loss(features: StreamFeatures, observed: Tensor, clean: Tensor) -> Tensor:
    """Sum over two maps and two streams of the mean of 1 - cosine over positions (paper section 3.3).

    ``observed`` and ``clean``: the teacher's features of the image as the students see it, and of its clean
    counterpart, each (N, maps, C, h, w), L2-normalised over C. The plain stream matches the first, the denoising
    stream the second. Scalar in [0, 8].
    """
    total = observed.new_zeros(())
    for number, (plain, denoising) in enumerate(zip(features.plain, features.denoising, strict=True)):
        total = total + (1 - (plain * observed[:, number]).sum(1)).mean()
        total = total + (1 - (denoising * clean[:, number]).sum(1)).mean()
    return total


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Mean of (1 - p_t)^gamma times the cross entropy, without class weights; all (N, h, w), target 0 or 1."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    p_true = p * target + (1 - p) * (1 - target)
    return (cross_entropy * (1 - p_true) ** gamma).mean()


def aggregation_loss(logits: Tensor, target: Tensor, gamma: float, l1_weight: float) -> Tensor:
    """Focal plus L1 between the anomaly map and the mask on the grid (paper section 3.4); (N, h, w) each."""
    return focal_loss(logits, target, gamma) + l1_weight * (logits.sigmoid() - target).abs().mean()


def mask_to_grid(mask: Tensor, height: int, width: int) -> Tensor:
    """Masks (N, H, W), 0 or 1, to the feature grid: bilinear, then 1 where at least half is covered."""
    small = F.interpolate(mask[:, None].float(), (height, width), mode="bilinear", align_corners=False, antialias=True)
    return (small[:, 0] >= 0.5).to(torch.float32)
