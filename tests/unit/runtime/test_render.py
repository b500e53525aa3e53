"""Maps as PNG files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stlm_core.runtime.render import map_to_png, overlay_to_png


def test_a_map_survives_as_16_bit_png() -> None:
    values = np.random.default_rng(0).random((9, 13), dtype=np.float32)
    values[0, :2] = (0, 1)
    with Image.open(io.BytesIO(map_to_png(values))) as image:
        assert image.mode == "I;16"
        read = np.asarray(image).astype(np.float64) / 65535
    assert np.abs(read - values).max() <= 0.5 / 65535 + 1e-9
    assert (read[0, 0], read[0, 1]) == (0.0, 1.0)


def test_an_overlay_leaves_normal_pixels_and_reddens_anomalous_ones() -> None:
    grey = np.full((4, 4, 3), 128, np.uint8)
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 1.0
    with Image.open(io.BytesIO(overlay_to_png(grey, values, 0.3))) as image:
        pixels = np.asarray(image).astype(int)
    assert pixels.shape == (4, 4, 3)
    assert (pixels[0, 0] == 128).all()
    red, _, blue = pixels[1, 2]
    assert red > blue + 40
