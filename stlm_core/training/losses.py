"""Losses of the two stages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stlm_core.models.two_stream import StreamFeatures


def distillation_loss(features: StreamFeatures, targets: StreamFeatures) -> Tensor:
    """Sum over the trained streams and their maps of the mean of 1 - cosine over positions (paper section 3.3).

    ``targets``: the teacher's features, of the image as it is for the plain stream and of its clean counterpart for the
    denoising stream; maps (N, C, h, w), L2-normalised over C. Only streams that have targets count. Scalar in [0, 2 M]
    for M maps in all.
    """
    distances = [
        (1 - (found * wanted).sum(1)).mean()
        for stream, target in zip(features, targets, strict=True)
        if target
        for found, wanted in zip(stream, target, strict=True)
    ]
    return torch.stack(distances).sum()


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
