"""Synthesis against the straightforward implementation that the benchmark measures it against."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stlm_core.synthesis.blend import pseudo_anomaly
from stlm_core.synthesis.textures import ProceduralTextures

from .conftest import part_image


@pytest.fixture(scope="module")
def plain_anomaly(repository: Path) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("plain_synthesis", repository / "benchmarks/plain_synthesis.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plain_anomaly


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("side", "chosen"), [(96, {}), (70, {"max_exponent": 3, "threshold": 0.2, "beta_max": 0.3})])
def test_pixels_agree_with_the_plain_implementation(
    plain_anomaly: Callable[..., Any], side: int, chosen: dict[str, float], grey: bool
) -> None:
    clean, textures = part_image(1, side, grey=grey), ProceduralTextures(side)
    masks_differ = inside = beyond = 0
    for seed in range(40):
        ours, our_mask = pseudo_anomaly(clean, textures, np.random.default_rng(seed), **chosen)
        plain, plain_mask = plain_anomaly(clean, textures, np.random.default_rng(seed), **chosen)
        masks_differ += np.count_nonzero(our_mask != plain_mask)
        np.testing.assert_array_equal(ours[~(our_mask | plain_mask)], plain[~(our_mask | plain_mask)])
        apart = np.abs(ours.astype(int) - plain)[our_mask & plain_mask].max(axis=-1)
        inside, beyond = inside + len(apart), beyond + np.count_nonzero(apart > 1)
        # Luminances and interpolated levels next to a half are rounded both ways, and colour curves magnify that.
        assert apart.max() <= 4
    assert masks_differ <= 1e-4 * 40 * side**2
    assert beyond <= 1e-3 * inside


def test_a_seed_makes_the_images_that_it_always_made() -> None:
    """Numbers from when textures were still warped whole; means, because last bits are not the same everywhere."""
    clean, textures = part_image(1, 96), ProceduralTextures(96)
    made = [pseudo_anomaly(clean, textures, np.random.default_rng(seed)) for seed in range(8)]
    areas = [int(mask.sum()) for _, mask in made]
    levels = [round(float(image[mask].mean()), 1) for image, mask in made]
    assert areas == [342, 543, 351, 462, 362, 333, 190, 440]
    assert levels == pytest.approx([182.4, 212.3, 159.3, 167.3, 120.4, 132.5, 127.1, 132.7], abs=0.11)
