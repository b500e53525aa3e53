"""Pose of a part: how a line's images may be rotated before an anomaly is put on them."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

RotationPolicy = Literal["none", "small", "quarter", "any"]
_SMALL_DEGREES = 5.0


def draw_rotation(policy: RotationPolicy, rng: np.random.Generator) -> float:
    """A counter-clockwise rotation in degrees.

    ``none``: 0; ``small``: uniform in +-5; ``quarter``: 0, 90, 180 or 270; ``any``: uniform in [-180, 180).
    """
    if policy == "small":
        return float(rng.uniform(-_SMALL_DEGREES, _SMALL_DEGREES))
    if policy == "quarter":
        return 90.0 * int(rng.integers(4))
    if policy == "any":
        return float(rng.uniform(-180.0, 180.0))
    return 0.0


def rotate(image: npt.NDArray[np.uint8], degrees: float) -> npt.NDArray[np.uint8]:
    """``image`` (H, W, 3) turned counter-clockwise about its centre; same shape and dtype.

    Quarter turns of a square, and half turns, move pixels exactly. Other angles interpolate bilinearly and fill the
    uncovered corners by reflection, so that no artificial edge appears that a detector would learn.
    """
    height, width = image.shape[:2]
    quarters, rest = divmod(degrees, 90.0)
    if rest == 0.0 and (height == width or quarters % 2 == 0):
        return np.ascontiguousarray(np.rot90(image, int(quarters) % 4))
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(
        cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101),
        dtype=np.uint8,
    )
