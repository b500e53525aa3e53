"""Perlin noise against its definition, and the masks' guarantees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.errors import UserError
from stlm_core.synthesis.perlin import MAX_MASK_FRACTION, MIN_MASK_FRACTION, perlin_mask, perlin_noise


def noise_by_definition(seed: int, height: int, width: int, cells_y: int, cells_x: int) -> np.ndarray:
    """Pixel by pixel: dot products with the four corner gradients, faded; same order of random draws."""
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, size=(cells_y + 1, cells_x + 1))

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    noise = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            y, x = (row + 0.5) * cells_y / height, (column + 0.5) * cells_x / width
            i, j = int(y), int(x)
            corner = {}
            for a in (0, 1):
                for b in (0, 1):
                    theta = angle[i + a, j + b]
                    corner[a, b] = np.cos(theta) * (x - j - b) + np.sin(theta) * (y - i - a)
            top = corner[0, 0] + fade(x - j) * (corner[0, 1] - corner[0, 0])
            bottom = corner[1, 0] + fade(x - j) * (corner[1, 1] - corner[1, 0])
            noise[row, column] = np.sqrt(2) * (top + fade(y - i) * (bottom - top))
    return noise


@pytest.mark.parametrize("shape", [(16, 16, 1, 1), (24, 32, 4, 2), (20, 12, 3, 7), (9, 9, 16, 16)])
def test_noise_is_perlins(shape: tuple[int, int, int, int]) -> None:
    noise = perlin_noise(np.random.default_rng(5), *shape)
    assert noise.dtype == np.float32
    np.testing.assert_allclose(noise, noise_by_definition(5, *shape), atol=2e-6)


def test_noise_stays_within_one() -> None:
    rng = np.random.default_rng(1)
    extremes = [np.abs(perlin_noise(rng, 64, 64, cells, cells)).max() for cells in (1, 2, 4, 8, 32) for _ in range(20)]
    assert 0.6 < max(extremes) <= 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), exponent=st.integers(0, 6), side=st.sampled_from([64, 96, 256]))
def test_masks_are_never_nearly_empty_or_full(seed: int, exponent: int, side: int) -> None:
    mask = perlin_mask(np.random.default_rng(seed), side, exponent)
    assert mask.shape == (side, side)
    assert mask.dtype == np.bool_
    assert MIN_MASK_FRACTION <= mask.mean() <= MAX_MASK_FRACTION


def test_mask_area_and_place_are_varied() -> None:
    rng = np.random.default_rng(0)
    masks = np.stack([perlin_mask(rng, 64) for _ in range(600)])
    area = masks.mean(axis=(1, 2))
    assert 0.03 < area.mean() < 0.10
    assert np.quantile(area, 0.05) < 0.03
    assert np.quantile(area, 0.95) > 0.08
    # No quarter of the image, and no corner, is spared: rotation must not favour the centre.
    frequency = masks.mean(axis=0)
    corners = [frequency[:8, :8], frequency[:8, -8:], frequency[-8:, :8], frequency[-8:, -8:]]
    assert min(corner.mean() for corner in corners) > 0.4 * frequency.mean()


def test_unreachable_threshold_names_the_setting() -> None:
    with pytest.raises(UserError, match=r"synthesize\.perlin_threshold.*0\.999"):
        perlin_mask(np.random.default_rng(0), 64, 3, threshold=0.999)
