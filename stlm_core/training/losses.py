"""Losses of the two stages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stlm_core.models.two_stream import StreamFeatures
from stlm_core.training_settings import FaConfig


def distillation_loss(features: StreamFeatures, targets: StreamFeatures) -> Tensor:
    """Sum over the trained streams and their maps of the mean of 1 - cosine over positions (paper section 3.3).

    ``targets``: the teacher's features, of the image as it is for the plain stream and of its clean counterpart for the
    denoising stream; maps (N, C, h, w), L2-normalised over C. Only streams that have targets count. Scalar in [0, 2 M]
    for M maps in all.
    """
    distances = [
        (1 - (found * wanted).sum(1)).mean()
        for stream, target in ((features.plain, targets.plain), (features.denoising, targets.denoising))
        if target
        for found, wanted in zip(stream, target, strict=True)
    ]
    return torch.stack(distances).sum()


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice coefficient of the anomaly map and the mask, mean over the images that have an anomaly; (N, h, w) each.

    Both sums are one larger, so that the loss of an image without overlap has a gradient. Scalar in [0, 1]; 0 where no
    image has an anomaly.
    """
    p = logits.sigmoid()
    common, both = (p * target).sum((1, 2)), p.sum((1, 2)) + target.sum((1, 2))
    anomalous = (target.sum((1, 2)) > 0).to(p.dtype)
    return ((1 - (2 * common + 1) / (both + 1)) * anomalous).sum() / anomalous.sum().clamp_min(1)


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Mean of (1 - p_t)^gamma times the cross entropy, without class weights; all (N, h, w), target 0 or 1."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    p_true = p * target + (1 - p) * (1 - target)
    return (cross_entropy * (1 - p_true) ** gamma).mean()


def aggregation_loss(logits: Tensor, target: Tensor, config: FaConfig) -> Tensor:
    """Focal plus L1 between the anomaly map and the mask on the grid (paper section 3.4), and Dice (beyond the paper),
    as weighted in ``config``; (N, h, w) each."""
    loss = config.focal_weight * focal_loss(logits, target, config.focal_gamma)
    loss = loss + config.l1_weight * (logits.sigmoid() - target).abs().mean()
    return loss + config.dice_weight * dice_loss(logits, target) if config.dice_weight else loss


def mask_to_grid(mask: Tensor, height: int, width: int, covered: float = 0.5) -> Tensor:
    """Masks (N, H, W), 0 or 1, to the feature grid: bilinear, then 1 where at least ``covered`` of it is anomalous."""
    small = F.interpolate(mask[:, None].float(), (height, width), mode="bilinear", align_corners=False, antialias=True)
    return (small[:, 0] >= covered).to(torch.float32)
