"""What an image looks like in a few numbers: exposure, sharpness, a thumbnail and a perceptual hash.

All sums are of whole numbers and exact, so the results depend neither on the number of threads nor on the machine.

Speed matters here, because every image of a line passes: pixels are looked at where Pillow keeps them (through the
Arrow interface), and intermediate results go into memory that each thread keeps, a strip of rows at a time. Fresh
memory costs more than the arithmetic does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_SIDE = 16
_HASH_IMAGE_SIDE = 32
_HASH_SIDE = 8
_STRIP = 1 << 17  # pixels
_KEPT = 1 << 22  # pixels: of larger images the luminance goes into memory that is given back
_WHITE = 255
_COLOUR_BYTES = np.frombuffer(bytes([1, 1, 1, 0]), np.uint32)[0]  # of an RGBX pixel, in this machine's byte order
# Cosines in whole numbers: the hash then is the same on every machine, and a flat image has no texture at all.
_COSINES = np.rint(
    np.cos(np.outer(np.arange(_HASH_SIDE), 2 * np.arange(_HASH_IMAGE_SIDE) + 1) * np.pi / (2 * _HASH_IMAGE_SIDE))
    * (1 << 14)
).astype(np.int64)


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Statistics of an 8-bit image; luminance is ITU-R 601, 0..255 (Pillow's rounding differs, in one pixel of 800).

    ``phash``: perceptual hash, 64 bits as 16 hex digits. ``brightness`` and ``contrast``: mean and standard deviation
    of the luminance / 255, in [0, 1] and [0, 0.5]. ``sharpness``: variance of the Laplacian of the luminance at full
    resolution, levels squared. ``saturated``: share of pixels with a channel at 255. ``thumbnail``: luminance averaged
    over areas, 16 x 16, row by row.
    """

    phash: str
    brightness: float
    contrast: float
    sharpness: float
    saturated: float
    thumbnail: bytes


def image_statistics(image: Image.Image) -> ImageStatistics:
    """Statistics of an image in mode "L" or "RGB", at least one pixel."""
    luminance, saturated = _luminance(_pixels(image))
    brightness, deviation = _Moments().add(luminance).result()
    small = _shrink(luminance, _HASH_IMAGE_SIDE)
    return ImageStatistics(
        phash=perceptual_hash(small),
        brightness=brightness / 255,
        contrast=float(np.sqrt(deviation)) / 255,
        sharpness=_sharpness(luminance),
        saturated=saturated,
        thumbnail=_shrink(small, THUMBNAIL_SIDE).tobytes(),
    )


def perceptual_hash(small: NDArray[np.uint8]) -> str:
    """Hash of a 32 x 32 luminance image: similar images differ in few of its 64 bits.

    The sign of each of the 8 x 8 lowest frequencies of the discrete cosine transform against their median, row by
    row, as 16 hex digits.
    """
    spectrum = (_COSINES @ small.astype(np.int64) @ _COSINES.T).ravel()
    middle = np.partition(spectrum, (31, 32))[31:33]
    return np.packbits(2 * spectrum > middle.sum()).tobytes().hex()


class _Scratch(threading.local):
    """Memory that a thread keeps from image to image."""

    def __init__(self) -> None:
        self._luminance = np.empty(0, np.uint8)
        self._edges = np.empty(0, np.int16)
        self._white = np.empty(0, np.bool_)

    def luminance(self, height: int, width: int) -> NDArray[np.uint8]:
        size = height * width
        if size > _KEPT:
            return np.empty((height, width), np.uint8)
        if self._luminance.size < size:
            self._luminance = np.empty(size, np.uint8)
        return self._luminance[:size].reshape(height, width)

    def edges(self, height: int, width: int) -> NDArray[np.int16]:
        if self._edges.size < height * width:
            self._edges = np.empty(height * width, np.int16)
        return self._edges[: height * width].reshape(height, width)

    def white(self, size: int) -> NDArray[np.bool_]:
        if self._white.size < size:
            self._white = np.empty(size, np.bool_)
        return self._white[:size]


_scratch = _Scratch()


class _Moments:
    """Mean and variance of whole numbers, from exact sums."""

    def __init__(self) -> None:
        self._count = self._total = self._squares = 0

    def add(self, values: NDArray[np.uint8] | NDArray[np.int16]) -> _Moments:
        self._count += values.size
        self._total += round(cv2.sumElems(values)[0])
        self._squares += round(cv2.norm(values, cv2.NORM_L2SQR))  # OpenCV squares a root: not quite whole
        return self

    def result(self) -> tuple[float, float]:
        spread = self._count * self._squares - self._total * self._total
        return self._total / self._count, spread / (self._count * self._count)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels, (H, W) of mode "L" or (H, W, 4) of "RGB" with a meaningless fourth channel; read only."""
    shape = (image.height, image.width) if image.mode == "L" else (image.height, image.width, 4)
    try:
        stored = pa.array(image)
    except ValueError:  # a large image lies in several pieces
        return np.frombuffer(image.tobytes("raw", "L" if image.mode == "L" else "RGBX"), np.uint8).reshape(shape)
    return np.asarray((stored if image.mode == "L" else stored.values).to_numpy(), np.uint8).reshape(shape)


def _luminance(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Luminance (H, W), and the share of pixels with a channel at 255."""
    height, width = pixels.shape[:2]
    grey = pixels.ndim == 2
    luminance = pixels if grey else _scratch.luminance(height, width)
    saturated = 0
    for rows in _strips(height, width):
        strip = pixels[rows]
        white = np.equal(strip.reshape(-1), _WHITE, out=_scratch.white(strip.size))
        if grey:
            saturated += int(np.count_nonzero(white))
        else:
            cv2.cvtColor(strip, cv2.COLOR_RGBA2GRAY, dst=luminance[rows])
            coloured = white.view(np.uint32)
            np.bitwise_and(coloured, _COLOUR_BYTES, out=coloured)
            saturated += cv2.countNonZero(coloured.view(np.int32))
    return luminance, saturated / (height * width)


def _sharpness(luminance: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian; the borders are mirrored."""
    height, width = luminance.shape
    moments = _Moments()
    for rows in _strips(height, width):
        top, bottom = max(rows.start - 1, 0), min(rows.stop + 1, height)
        edges = _scratch.edges(bottom - top, width)  # -1020..1020
        cv2.Laplacian(luminance[top:bottom], cv2.CV_16S, dst=edges)
        moments.add(edges[rows.start - top : rows.stop - top])
    return moments.result()[1]


def _strips(height: int, width: int) -> Iterator[slice]:
    rows = max(1, _STRIP // width)
    return (slice(start, min(start + rows, height)) for start in range(0, height, rows))


def _shrink(luminance: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Averages over areas, (side, side)."""
    # Halving is what OpenCV does fastest. The last row of an odd number is left out where that cannot be seen.
    while min(luminance.shape) >= 4 * side:
        height, width = luminance.shape
        if (height % 2 or width % 2) and min(height, width) < 8 * side:
            break
        even = luminance[: height // 2 * 2, : width // 2 * 2]
        luminance = np.asarray(cv2.resize(even, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(luminance, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
