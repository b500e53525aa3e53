"""Stage two: feature aggregation learns where the streams' disagreement is an anomaly (paper section 3.4)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stlm_core.models.aggregation import FeatureAggregation
from stlm_core.models.detector import Detector
from stlm_core.models.pyramid_decoder import PyramidDecoder
from stlm_core.training.distributed import ALONE, Ranks
from stlm_core.training.losses import aggregation_loss, distillation_loss, mask_to_grid
from stlm_core.training.optimisation import build_optimiser, trained_parameters
from stlm_core.training.pairs import TrainingPairs, targets_of
from stlm_core.training.validation import PseudoValidation
from stlm_core.training_settings import FaConfig


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
        groups = _groups(detector.aggregation, config)
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
        target = mask_to_grid(batch.masks, logits.shape[-2], logits.shape[-1], self.module.aggregation.covered)
        aggregation = aggregation_loss(logits, target, config)
        if not config.joint_finetune:
            return {"total": aggregation}
        distillation = distillation_loss(features, targets_of(batch, self.module))
        total = aggregation + config.distill_weight * distillation
        return {"total": total, "aggregation": aggregation, "distillation": distillation}

    def validate(self) -> dict[str, float]:
        """Figures of FA's map on held-back good images with pseudo anomalies."""
        return self._validation.figures(self.module, self._device)


def _groups(
    aggregation: FeatureAggregation | PyramidDecoder, config: FaConfig
) -> list[tuple[Iterable[nn.Parameter], float]]:
    """The aggregation's parameters with their learning rates."""
    if isinstance(aggregation, PyramidDecoder):
        return [(aggregation.parameters(), config.optimiser.lr)]
    groups: list[tuple[Iterable[nn.Parameter], float]] = [
        (aggregation.residual.parameters(), config.optimiser.lr),
        (
            [*aggregation.pyramid.parameters(), *aggregation.head.parameters()],
            config.optimiser.head_lr or config.optimiser.lr,
        ),
    ]
    if aggregation.discrepancy_skip:
        groups.append(([aggregation.slope, aggregation.offset], config.skip_lr))
    return groups
