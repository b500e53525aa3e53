"""Statistics of an image against their definitions, written without the module's shortcuts."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from stlm_core.data.probe import probe_image
from stlm_core.data.statistics import image_statistics, perceptual_hash


def noise(seed: int, height: int, width: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def blotches(seed: int, side: int = 200) -> Image.Image:
    """A smooth image, as a camera sees one."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def bits_apart(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def levels(image: Image.Image) -> NDArray[np.float64]:
    """ITU-R 601 luminance."""
    pixels = np.asarray(image)
    return (pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)).astype(np.float64)


def areas(length: int) -> NDArray[np.float64]:
    """The share (16, length) of every pixel in sixteen equal parts of a side."""
    edges = np.linspace(0, length, 17)
    starts = np.arange(length)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.clip(overlap, 0, None) * 16 / length


# The last two are of several strips; of the last, Pillow keeps the pixels in several pieces.
SHAPES = [(1, 1), (1, 9), (9, 1), (2, 2), (37, 53), (700, 513), (1500, 3001)]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_is_its_definition(shape: tuple[int, int], mode: str) -> None:
    image = noise(1, *shape, mode)
    found = image_statistics(image)
    luminance = levels(image)
    assert found.brightness == pytest.approx(luminance.mean() / 255, rel=1e-12)
    assert found.contrast == pytest.approx(luminance.std() / 255, rel=1e-9)
    assert found.sharpness == pytest.approx(cv2.Laplacian(luminance, cv2.CV_64F).var(), rel=1e-9)
    pixels = np.asarray(image).reshape(*shape, -1)
    assert found.saturated == (pixels == 255).any(axis=2).mean()


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    mode=st.sampled_from(["L", "RGB"]),
    low=st.integers(0, 255),
    span=st.integers(0, 255),
    seed=st.integers(0, 1000),
)
def test_ranges(height: int, width: int, mode: str, low: int, span: int, seed: int) -> None:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(low, min(256, low + span + 1), shape, dtype=np.uint8)
    found = image_statistics(Image.fromarray(pixels))
    assert 0 <= found.brightness <= 1
    assert 0 <= found.contrast <= 0.5
    assert 0 <= found.sharpness <= 1020**2
    assert 0 <= found.saturated <= 1
    assert len(found.thumbnail) == 256
    assert len(found.phash) == 16
    assert int(found.phash, 16) >= 0
    if span == 0:
        assert (found.contrast, found.sharpness, found.saturated) == (0, 0, float(low == 255))


@pytest.mark.parametrize(
    ("size", "tolerance"), [((320, 384), 2), ((100, 70), 2), ((301, 255), 2), ((301, 263), 6), ((1021, 517), 6)]
)
def test_thumbnail_averages_areas(size: tuple[int, int], tolerance: int) -> None:
    image = blotches(3).resize(size)
    expected = areas(size[1]) @ levels(image) @ areas(size[0]).T
    thumbnail = np.frombuffer(image_statistics(image).thumbnail, np.uint8).reshape(16, 16)
    assert np.abs(thumbnail - expected).max() <= tolerance


def test_luminance_is_pillows_within_one_level() -> None:
    image = noise(4, 500, 500)
    apart = np.abs(levels(image) - np.asarray(image.convert("L")))
    assert apart.max() <= 1
    assert apart.mean() < 1 / 500


@pytest.mark.parametrize("seed", range(5))
def test_hash_is_that_of_the_cosine_transform(seed: int) -> None:
    small = np.asarray(blotches(seed, 32).convert("L"))
    spectrum = dctn(small.astype(np.float64), type=2)[:8, :8]
    expected = np.packbits(spectrum.ravel() > np.median(spectrum)).tobytes().hex()
    assert bits_apart(perceptual_hash(small), expected) <= 1  # the cosines are rounded


def test_hash_of_a_flat_image_has_no_texture() -> None:
    hashes = {perceptual_hash(np.full((32, 32), level, np.uint8)) for level in (1, 100, 255)}
    assert hashes == {"8000000000000000"}
    assert perceptual_hash(np.zeros((32, 32), np.uint8)) == "0" * 16


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), quality=st.integers(60, 95))
def test_hash_survives_compression_and_scaling(seed: int, quality: int) -> None:
    image = blotches(seed)
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality)
    original = image_statistics(image).phash
    with Image.open(stored) as compressed:
        assert bits_apart(original, image_statistics(compressed).phash) <= 6
    assert bits_apart(original, image_statistics(image.resize((333, 333))).phash) <= 12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_hash_tells_images_apart(seed: int) -> None:
    first, second = (image_statistics(noise(number, 64, 64)).phash for number in (seed, seed + 10_001))
    assert bits_apart(first, second) > 10


def test_the_same_in_any_number_of_threads() -> None:
    images = [noise(seed, 100 + 7 * seed, 1500 - 90 * seed, "RGB" if seed % 2 else "L") for seed in range(12)]
    before = cv2.getNumThreads()
    expected = [image_statistics(image) for image in images]
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(image_statistics, images * 4)) == expected * 4
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_image_is_described(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = blotches(5).crop((0, 0, 200, 120))
    stored.save(tmp_path / "a.png", exif=exif)
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    expected = image_statistics(stored if turned is None else stored.transpose(turned))
    found = probe_image(tmp_path / "a.png")
    assert (found.phash, found.thumbnail, found.sharpness) == (expected.phash, expected.thumbnail, expected.sharpness)


def test_every_stored_form_is_measured_as_it_is_read(tmp_path: Path) -> None:
    grey = np.asarray(blotches(6).convert("L"))
    expected = image_statistics(Image.fromarray(grey))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([grey, np.full_like(grey, 255)]), "LA").save(tmp_path / "alpha.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "rgb.png")
    for name in ("deep", "palette", "alpha", "rgb"):
        found = probe_image(tmp_path / f"{name}.png")
        assert (found.phash, found.brightness, found.sharpness) == (
            expected.phash,
            expected.brightness,
            expected.sharpness,
        )
