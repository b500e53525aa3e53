"""Colours of anomaly maps."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from stlm_core.evaluation.heatmap import TURBO, colour_level, heat_map, outline, overlay


def test_colours_are_turbo() -> None:
    expected = np.asarray(matplotlib.colormaps["turbo"](np.arange(256)))[:, :3] * 255
    assert np.abs(TURBO.astype(float) - expected).max() < 8  # the published polynomial, not the table


@pytest.mark.parametrize("threshold", [0.0, 1e-9, 0.2, 0.5, 1.0])
def test_the_threshold_is_the_middle_of_the_scale(threshold: float) -> None:
    level = colour_level(np.array([0, threshold, 1]), threshold)
    if 0 < threshold < 1:
        np.testing.assert_allclose(level, [0, 0.5 if threshold > 1e-6 else level[1], 1], atol=1e-6)
    ramp = colour_level(np.linspace(0, 1, 100), threshold)
    assert (np.diff(ramp) >= 0).all()
    assert ((ramp >= 0) & (ramp <= 1)).all()


def test_overlay_leaves_normal_pixels_and_colours_anomalous_ones() -> None:
    image = np.full((4, 6, 3), 100, np.uint8)
    anomaly_map = np.zeros((4, 6), np.float32)
    anomaly_map[1, 2] = 1
    shown = overlay(image, anomaly_map, 0.4)
    assert shown.shape == image.shape
    assert shown.dtype == np.uint8
    assert (shown[anomaly_map == 0] == 100).all()
    red, _, blue = shown[1, 2]
    assert red > blue
    np.testing.assert_array_equal(heat_map(anomaly_map, 0.4)[1, 2], TURBO[255])


def test_outline_surrounds_the_mask_and_leaves_what_is_inside() -> None:
    image = np.full((20, 20, 3), 200, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[8:11, 8:11] = True
    drawn = outline(image, mask)
    assert (drawn[mask] == 200).all()
    assert (drawn[7, 8] == (255, 0, 200)).all()
    assert (drawn[5, 8] == 0).all()
    assert (drawn[0, 0] == 200).all()
    assert (image == 200).all()
