"""Light and focus: what a picture measures, what a line finds ordinary, and what is said of one that is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter
from scipy.ndimage import laplace
from tiny_onnx import tiny_onnx

from stlm_core.errors import UserError
from stlm_core.runtime.capture import Capture, CaptureRange, measure_capture, ordinary_captures
from stlm_core.runtime.model import DetectorSession

SIDE = 64
pixels = arrays.arrays(np.uint8, st.tuples(st.integers(1, 90), st.integers(1, 90), st.just(3)))
captures = st.builds(Capture, st.floats(0, 1), st.floats(0, 24))


def part(seed: int = 0, side: int = 2 * SIDE) -> np.ndarray:
    """Coarse texture, as a good part shows it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 180, (side // 4, side // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def ordinary(count: int = 12) -> CaptureRange:
    return ordinary_captures([measure_capture(part(seed), SIDE) for seed in range(count)])


def test_it_is_the_laplacian_of_what_the_network_sees() -> None:
    image = part(3, SIDE)
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)
    found = measure_capture(image, SIDE)
    assert found.brightness == pytest.approx(grey.mean() / 255)
    assert found.sharpness == pytest.approx(np.log1p((laplace(grey) * 128 / grey.mean())[1:-1, 1:-1].var()), rel=1e-6)


@given(pixels)
def test_any_picture_can_be_measured(image: np.ndarray) -> None:
    found = measure_capture(image, 16)
    assert 0 <= found.brightness <= 1
    assert 0 <= found.sharpness < 25


def test_a_picture_of_another_size_measures_the_same() -> None:
    image = part(5)
    large = np.asarray(Image.fromarray(image).resize((8 * SIDE, 8 * SIDE), Image.Resampling.NEAREST))
    small, big = measure_capture(image, SIDE), measure_capture(large, SIDE)
    assert big.brightness == pytest.approx(small.brightness, abs=2e-3)
    assert big.sharpness == pytest.approx(small.sharpness, abs=1e-2)


def test_good_pictures_that_were_not_seen_are_ordinary() -> None:
    assert [ordinary().complaints(measure_capture(part(seed), SIDE)) for seed in range(50, 80)] == [()] * 30


def test_what_is_said_of_the_others() -> None:
    image = part(1)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 25, image.shape)
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(4)))
    seen = ordinary()

    def said(other: np.ndarray) -> tuple[str, ...]:
        return seen.complaints(measure_capture(np.clip(other, 0, 255).astype(np.uint8), SIDE))

    assert said(image * 0.7) == ("dark",)
    assert said(image * 1.3) == ("bright",)
    assert said(blurred) == ("blurred",)
    assert said(blurred * 0.7) == ("dark", "blurred")
    assert said(image + 2 * noise) == ("grainy",)


@given(st.lists(captures, min_size=1, max_size=30))
def test_what_made_the_range_is_within_it(good: list[Capture]) -> None:
    seen = ordinary_captures(good)
    assert all(seen.complaints(one) == () for one in good)
    assert CaptureRange.from_json(seen.to_json()) == seen


def test_one_picture_condemns_nothing_near_it() -> None:
    seen = ordinary_captures([Capture(0.5, 5.0)])
    assert seen.complaints(Capture(0.515, 4.8)) == ()
    assert seen.complaints(Capture(0.53, 4.7)) == ("bright", "blurred")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"brightness": [0, 1]}',
        '{"brightness": [0, 1], "sharpness": 3}',
        '{"brightness": [1, 0], "sharpness": [0, 1]}',
        '{"brightness": [0, NaN], "sharpness": [0, 1]}',
        '{"brightness": [0, "1"], "sharpness": [0, 1]}',
    ],
)
def test_damaged_ranges_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        CaptureRange.from_json(text)
    if text:
        with pytest.raises(UserError, match="metadata `capture` is damaged"):
            DetectorSession(tiny_onnx(capture=text))


@pytest.mark.parametrize("side", ["nan", "inf", "-8", "2", "64.5", ""])
def test_a_range_without_a_size_is_refused(side: str) -> None:
    assert DetectorSession(tiny_onnx(image_size=side)).complaints(part()) == ()
    with pytest.raises(UserError, match="image_size"):
        DetectorSession(tiny_onnx(image_size=side, capture=ordinary().to_json()))


def test_a_file_says_what_is_ordinary_or_nothing() -> None:
    dark = np.zeros((5, 7, 3), np.uint8)
    assert DetectorSession(tiny_onnx()).complaints(dark) == ()
    assert DetectorSession(tiny_onnx(capture=ordinary().to_json())).complaints(dark) == ("dark", "blurred")
