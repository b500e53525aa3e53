"""Stage two: feature aggregation learns where the streams' disagreement is an anomaly (paper section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from stlm_core.models.detector import Detector
from stlm_core.settings import FaConfig
from stlm_core.training.distributed import ALONE, Ranks
from stlm_core.training.losses import aggregation_loss, distillation_loss, mask_to_grid
from stlm_core.training.optimisation import build_optimiser, trained_parameters
from stlm_core.training.pairs import TrainingPairs
from stlm_core.training.validation import PseudoValidation


class Aggregation:
    """Training task of FA.

    With ``joint_finetune`` FA's loss reaches the streams too and the distillation loss keeps holding them to the
    teacher, as in the paper's reference; without, the streams are frozen in eval mode. ``detector`` must have
    ``map_source`` "fa".
    """

    def __init__(
        self,
        detector: Detector,
        pairs: TrainingPairs,
        validation: PseudoValidation,
        config: FaConfig,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.module = detector
        groups = [
            (detector.aggregation.residual.parameters(), config.optimiser.lr),
            (
                [*detector.aggregation.pyramid.parameters(), *detector.aggregation.head.parameters()],
                config.optimiser.head_lr or config.optimiser.lr,
            ),
        ]
        if detector.aggregation.discrepancy_skip:
            groups.append(([detector.aggregation.slope, detector.aggregation.offset], config.skip_lr))
        detector.streams.requires_grad_(config.joint_finetune)
        if config.joint_finetune:
            groups.append((trained_parameters(detector.streams), config.stream_lr))
        self.optimiser = build_optimiser(config.optimiser, groups)
        self._pairs, self._validation = pairs, validation
        self._config, self._device, self._ranks = config, device, ranks

    def train_mode(self) -> None:
        """Put what is trained into training mode."""
        self.module.train()
        if not self._config.joint_finetune:
            self.module.streams.eval()

    def losses(self, step: int) -> dict[str, Tensor]:
        """``total``, and when joint its parts ``aggregation`` and ``distillation``, of this rank's share of a batch."""
        config = self._config
        part = self._ranks.share(config.batch_size)
        batch = self._pairs.draw(config.seed, step, config.batch_size, part).to(self._device)
        features = self.module.streams(self.module.preprocess(batch.images))
        logits = self.module.aggregation(features)
        target = mask_to_grid(batch.masks, logits.shape[-2], logits.shape[-1])
        aggregation = aggregation_loss(logits, target, config.focal_gamma, config.l1_weight)
        if not config.joint_finetune:
            return {"total": aggregation}
        distillation = distillation_loss(features, self.module.streams.targets(batch.observed, batch.clean))
        total = aggregation + config.distill_weight * distillation
        return {"total": total, "aggregation": aggregation, "distillation": distillation}

    def validate(self) -> dict[str, float]:
        """Figures of FA's map on held-back good images with pseudo anomalies."""
        return self._validation.figures(self.module, self._device)
