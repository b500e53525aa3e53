"""The camera: exact moves, the light it is told, and settings that draw nothing unless they allow something."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.camera import Camera, draw_camera

SIDE = 32
IMAGE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)


@given(st.integers(-8, 8), st.integers(-8, 8))
def test_a_move_moves_every_pixel_and_mirrors_the_border(right, down):
    moved = Camera(right=right, down=down).lit(IMAGE)
    places = np.arange(SIDE)

    def source(shift: int) -> np.ndarray:
        wanted = np.abs(places - shift)  # reflection about the first pixel
        return np.where(wanted >= SIDE, 2 * (SIDE - 1) - wanted, wanted)

    np.testing.assert_array_equal(moved, IMAGE[source(down)][:, source(right)])


def test_light_is_gain_and_offset_within_the_range():
    lit = Camera(gain=1.2, offset=-10).lit(IMAGE)
    expected = np.clip(np.rint(IMAGE.astype(np.float64) * 1.2 - 10), 0, 255)
    assert np.abs(lit - expected).max() <= 1


def test_blur_is_a_gaussian_and_quality_a_jpeg():
    smooth = cv2.GaussianBlur(IMAGE, (0, 0), 4.0)
    blurred = Camera(sigma=1.5).photographed(IMAGE)
    assert blurred.astype(float).std() < 0.5 * IMAGE.astype(float).std()
    np.testing.assert_allclose(blurred.mean((0, 1)), IMAGE.mean((0, 1)), atol=3)
    packed = Camera(quality=40).photographed(smooth)
    assert 0 < np.abs(packed.astype(int) - smooth).mean() < 4  # other pixels, the same picture with the same channels


def test_the_usual_camera_changes_nothing():
    assert Camera().lit(IMAGE) is IMAGE
    assert Camera().photographed(IMAGE) is IMAGE


@given(st.integers(0, 2**32))
def test_a_drawn_camera_stays_within_the_settings(seed):
    settings = SynthesizeConfig(light=0.2, shift=0.1, blur=1.5, jpeg_quality=60)
    camera = draw_camera(settings, 100, np.random.default_rng(seed))
    assert abs(camera.gain - 1) <= 0.2
    assert abs(camera.offset) <= 16
    assert max(abs(camera.right), abs(camera.down)) <= 10
    assert 0 <= camera.sigma <= 1.5
    assert 60 <= camera.quality <= 95 or camera.quality == 100


@pytest.mark.parametrize("light", [0.0, 0.1])
def test_a_setting_that_allows_nothing_draws_nothing(light):
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    camera = draw_camera(SynthesizeConfig(light=light), SIDE, one)
    assert (camera == Camera()) == (light == 0)
    if light:
        other.random(2)
    assert one.random() == other.random()
