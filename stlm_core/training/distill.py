"""Stage one: the two streams learn the teacher's features (paper section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from stlm_core.models.detector import Detector
from stlm_core.training.distributed import ALONE, Ranks
from stlm_core.training.losses import distillation_loss
from stlm_core.training.optimisation import build_optimiser, trained_parameters
from stlm_core.training.pairs import TrainingPairs, targets_of
from stlm_core.training.validation import PseudoValidation
from stlm_core.training_settings import DistillConfig


class Distillation:
    """Training task of the streams; the detector's map during validation is the streams' discrepancy.

    ``detector`` must have ``map_source`` "tlm". Its aggregation is neither trained nor saved.
    """

    def __init__(
        self,
        detector: Detector,
        pairs: TrainingPairs,
        validation: PseudoValidation,
        config: DistillConfig,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.module = detector.streams
        self.optimiser = build_optimiser(
            config.optimiser, [(trained_parameters(detector.streams), config.optimiser.lr)]
        )
        self._detector, self._pairs, self._validation = detector, pairs, validation
        self._config, self._device, self._ranks = config, device, ranks

    def train_mode(self) -> None:
        """Put the streams into training mode."""
        self._detector.train()

    def losses(self, step: int) -> dict[str, Tensor]:
        """``total``: the distillation loss of this rank's share of the step's batch."""
        size = self._config.batch_size
        batch = self._pairs.draw(self._config.seed, step, size, self._ranks.share(size)).to(self._device)
        features = self.module.students(self._detector.preprocess(batch.images))
        return {"total": distillation_loss(features, targets_of(batch, self._detector))}

    def validate(self) -> dict[str, float]:
        """Figures of the discrepancy map on held-back good images with pseudo anomalies."""
        return self._validation.figures(self._detector, self._device)
