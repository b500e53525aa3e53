"""How else a camera might have seen the same part: moved, brighter or darker, out of focus, compressed harder.

What comes into a moved picture is its mirrored border, as more of the scene would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stlm_core.settings import SynthesizeConfig

Image = npt.NDArray[np.uint8]
_LEVELS = 80.0  # what a share of light is worth in added grey levels
_GREY = np.arange(256, dtype=np.float32)
_TOUCHED = 0.5  # probability of each of blur and compression: pictures as they are stay the most frequent
_BEST_QUALITY = 95


@dataclass(frozen=True)
class Camera:
    """``right``, ``down``: pixels by which the scene moves. ``gain``, ``offset``: of grey levels. ``sigma``: of the
    blur, pixels, 0 for none. ``quality``: of a JPEG between camera and detector, 100 for none."""

    right: int = 0
    down: int = 0
    gain: float = 1.0
    offset: float = 0.0
    sigma: float = 0.0
    quality: int = 100

    def lit(self, image: Image) -> Image:
        """``image`` (S, S, 3) moved, then brightened or darkened: what is there before a defect is painted on it."""
        if self.right or self.down:
            x, y = abs(self.right), abs(self.down)
            wide = cv2.copyMakeBorder(image, y, y, x, x, cv2.BORDER_REFLECT_101)
            side, top, left = len(image), y - self.down, x - self.right
            image = np.ascontiguousarray(wide[top : top + side, left : left + side])
        if self.gain == 1 and self.offset == 0:
            return image
        levels = np.clip(np.rint(_GREY * np.float32(self.gain) + np.float32(self.offset)), 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(image, levels), np.uint8)

    def photographed(self, image: Image) -> Image:
        """``image`` (S, S, 3), defects and all, through the lens and the compression."""
        if self.sigma > 0:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), self.sigma, borderType=cv2.BORDER_REFLECT_101), np.uint8)
        if self.quality < 100:
            _, packed = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, self.quality))
            image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        return image


def draw_camera(settings: SynthesizeConfig, side: int, rng: np.random.Generator) -> Camera:
    """A camera within ``synthesize.light``, ``shift``, ``blur`` and ``jpeg_quality``, for images of ``side`` pixels.

    A setting that allows nothing draws nothing, so that it does not change what the others draw.
    """
    right = down = 0
    gain, offset, sigma, quality = 1.0, 0.0, 0.0, 100
    if light := settings.light:
        gain, offset = rng.uniform(1 - light, 1 + light), rng.uniform(-light, light) * _LEVELS
    if settings.shift:
        furthest = math.floor(settings.shift * side)
        right, down = (int(one) for one in rng.integers(-furthest, furthest + 1, 2))
    if settings.blur and rng.random() < _TOUCHED:
        sigma = rng.uniform(0, settings.blur)
    if settings.jpeg_quality < 100 and rng.random() < _TOUCHED:
        quality = int(rng.integers(settings.jpeg_quality, max(settings.jpeg_quality, _BEST_QUALITY) + 1))
    return Camera(right, down, gain, offset, sigma, quality)
