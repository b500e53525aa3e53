"""Everything that is known of an image or mask file, from one read and one decode."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from pathlib import Path

from stlm_core.data.images import (
    DEFAULT_MAX_PIXELS,
    mask_sha256,
    open_image,
    read_content,
    read_mask,
    rotated_size,
    stored_orientation,
    to_eight_bit,
    upright,
)
from stlm_core.data.statistics import image_statistics
from stlm_core.files import sha256_bytes


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image file whose pixels decode.

    ``width`` and ``height`` are pixels after EXIF orientation, ``mode`` is Pillow's name of the stored mode
    ("L", "RGB", "I;16", ...), ``bytes`` and ``sha256`` describe the file. The rest describes the upright 8-bit
    image, see :class:`stlm_core.data.statistics.ImageStatistics`.
    """

    width: int
    height: int
    mode: str
    bytes: int
    sha256: str
    phash: str
    brightness: float
    contrast: float
    sharpness: float
    saturated: float
    thumbnail: builtins.bytes


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """What is known of a mask: its sha256 (one for a folder of masks), its size, and the share of pixels above 0."""

    sha256: str
    width: int
    height: int
    marked: float


def probe_image(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageFacts:
    """Facts of an image, after decoding all its pixels once.

    Raises:
        UserError: see :func:`stlm_core.data.images.read_image`.
    """
    content = read_content(path)
    return probe_content(path, content, sha256_bytes(content), max_pixels)


def probe_content(path: Path, content: bytes, sha256: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageFacts:
    """:func:`probe_image` of bytes that have been read and hashed; ``path`` is only named.

    Raises:
        UserError: see :func:`stlm_core.data.images.read_image`.
    """
    with open_image(path, content, max_pixels) as image:
        mode = image.mode
        orientation = stored_orientation(image)
        width, height = rotated_size(image.size, orientation)
        eight_bit = upright(to_eight_bit(path, image), orientation)
        seen = image_statistics(eight_bit)
    return ImageFacts(
        width,
        height,
        mode,
        len(content),
        sha256,
        seen.phash,
        seen.brightness,
        seen.contrast,
        seen.sharpness,
        seen.saturated,
        seen.thumbnail,
    )


def probe_mask(path: Path, expected_hw: tuple[int, int], max_pixels: int = DEFAULT_MAX_PIXELS) -> MaskFacts:
    """Facts of the mask file or folder of masks at ``path``; ``expected_hw`` is the (height, width) of its image.

    Raises:
        UserError: see :func:`stlm_core.data.images.read_mask`.
    """
    marked = float(read_mask(path, expected_hw, max_pixels=max_pixels).mean())
    return MaskFacts(mask_sha256(path), expected_hw[1], expected_hw[0], marked)
