"""Profile `gpu`: its graph on the paper's grid trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from stlm_core.config import load_line
from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.steps.cache_teacher import grid_side
from stlm_core.training.losses import aggregation_loss, distillation_loss
from stlm_core.training_settings import FaConfig

pytestmark = pytest.mark.slow


def test_a_step_on_the_papers_grid_gives_gradients_everywhere(repository: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load((repository / "params.yaml").read_text())
    tree["lines"] = {"line": {"profile": "gpu", "data": {"path": "images"}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    config = load_line(tmp_path / "params.yaml", "line")
    grid = grid_side(config)
    assert grid == 64
    detector = Detector(DetectorFacts(config.image.size, config.model.stem, "unit")).train()
    images = torch.randint(0, 256, (1, config.image.size, config.image.size, 3), dtype=torch.uint8)
    features = torch.nn.functional.normalize(torch.randn(1, 2, 256, grid, grid), dim=2)
    streams = detector.streams(detector.preprocess(images))
    logits = detector.aggregation(streams)
    assert logits.shape == (1, grid, grid)
    loss = distillation_loss(streams, detector.streams.targets(features, features)) + aggregation_loss(
        logits, torch.zeros_like(logits), FaConfig()
    )
    loss.backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
