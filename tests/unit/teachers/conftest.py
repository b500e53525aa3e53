"""Real weights, fetched on first use, and images for all teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stlm_core.errors import UserError
from stlm_core.weights.catalog import lookup
from stlm_core.weights.fetch import fetch


@pytest.fixture(scope="session")
def fetched(weights_dir: Path) -> Callable[[str], Path]:
    """Folder of the weights once the named file is in it; the test is skipped where it cannot be had."""

    def get(name: str) -> Path:
        try:
            return fetch(lookup(name), weights_dir).path.parent
        except UserError as error:
            pytest.skip(f"the real weights cannot be had: {error}")

    return get


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Smooth random pictures, uint8 (2, 96, 80, 3)."""
    coarse = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, (96, 80), mode="bilinear", align_corners=False)
    return (fine * 255).permute(0, 2, 3, 1).to(torch.uint8)
