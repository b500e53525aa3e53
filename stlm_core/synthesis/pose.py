"""How a line's parts lie: whether its good images themselves are turned all round against each other.

Told from edges alone (docs/decisions/0023): turning a part turns the directions of its edges by the same angle. Of a
pair of images the histograms of edge directions agree once one of them is moved round by the angle between the parts.
Where the parts lie as they happen to, these angles cover the circle; where they are aligned, or a little askew, or only
few are turned, they do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from stlm_core.data.images import resize_to
from stlm_core.errors import UserError
from stlm_core.files import read_json_object, write_json_atomic
from stlm_core.synthesis.rotation import RotationPolicy

POSE = "pose.json"
_REPAIR = "run `stlm synthesize --force` again"
LOOKED_AT = 64  # images: 2,016 pairs
_FEWEST = 8
_DIRECTIONS = 36  # bins of 10 degrees; divisible by 4
_EDGE_SIDE, _EDGE_SIGMA = 256, 1.5  # largest side that is looked at; grain has no direction
_SLOPE = 1.0  # grey levels a pixel: weaker is shading, not an edge
# A pair is turned when at least this share of the edges differs in direction, and this share of it is left at most.
_LEAST_DIFFERENCE, _LARGEST_REST = 0.05, 0.6
# Share of pairs turned by 55 to 125 degrees. Parts that lie anyhow have 0.39, by quarters 0.5, within 90 degrees of
# each other 0.15; three in ten that lie anyhow make 0.2 of an aligned line. Half turns show in few parts.
_LEAST_ACROSS = 0.25
_QUARTERS = 0.7  # share of the turned pairs that are turned by a quarter, half or three quarters; 0.33 by chance


@dataclass(frozen=True, slots=True)
class Pose:
    """``policy``: how images may be turned. ``across``: share of the pairs of images, 0..1, whose parts are turned
    against each other by 55 to 125 degrees; None where the policy is a setting or there were too few images."""

    policy: RotationPolicy
    across: float | None = None

    def write(self, folder: Path) -> None:
        write_json_atomic(folder / POSE, asdict(self))


def read_pose(folder: Path) -> Pose:
    """The pose that was found or set when the bank in ``folder`` was made.

    Raises:
        UserError: there is none, or it is not one.
    """
    found = read_json_object(folder / POSE, _REPAIR)
    if found.keys() != {"policy", "across"} or found["policy"] not in get_args(RotationPolicy):
        raise UserError(f"{folder / POSE}: not a pose; {_REPAIR}")
    return Pose(**found)


def find_pose(images: Iterable[npt.NDArray[np.uint8]]) -> Pose:
    """``any``, ``quarter`` or ``none`` by good ``images`` (H, W, 3) of a line, in the proportions of the photographs
    (:func:`in_proportion`); ``none`` of fewer than 8."""
    found = [edge_directions(image) for image in images]
    if len(found) < _FEWEST:
        return Pose("none")
    histograms = np.stack(found)
    first, second = np.triu_indices(len(histograms), 1)
    # (36, pairs): half the L1 distance after a turn by every multiple of 10 degrees
    apart = np.stack(
        [np.abs(histograms[first] - np.roll(histograms[second], turn, 1)).sum(1) / 2 for turn in range(_DIRECTIONS)]
    )
    turned = (apart[0] >= _LEAST_DIFFERENCE) & (apart.min(0) < _LARGEST_REST * apart[0])
    best = apart.argmin(0)
    turns = np.minimum(best, _DIRECTIONS - best) * (360 // _DIRECTIONS)  # degrees, 0 to 180
    across = float((turned & (turns > 55) & (turns < 125)).mean())
    policy: RotationPolicy = "none"
    if across >= _LEAST_ACROSS:
        from_quarter = np.abs((turns[turned] + 45) % 90 - 45)
        policy = "quarter" if float((from_quarter <= 10).mean()) >= _QUARTERS else "any"
    return Pose(policy, round(across, 4))


def in_proportion(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """``image`` (H, W, 3) with ``size`` pixels along its longer side. Unlike the network's square it is not squashed,
    which draws the directions of all edges towards one. Of a square image it is that square."""
    height, width = image.shape[:2]
    if height == width:
        return resize_to(image, size)
    resized = Image.fromarray(image).resize(_within(width, height, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8).copy()


def _within(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) in the same proportion, the longer of them ``longest``."""
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def edge_directions(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Share of the edges of ``image`` (H, W, 3) in each of 36 directions of brightness, (36,), summing to 1; inside the
    largest circle, whose pixels stay in the picture whichever way it is turned, and wherever that circle can be moved
    to in a picture that is not square. Without an edge all are equal."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if max(grey.shape) > _EDGE_SIDE:
        within = _within(grey.shape[1], grey.shape[0], _EDGE_SIDE)
        grey = cv2.resize(grey, within, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _EDGE_SIGMA)
    along, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    side = min(grey.shape)
    # By how much a row or column is off the nearest centre of such a circle.
    off_down, off_right = (
        np.maximum(np.abs(np.arange(length) - (length - 1) / 2) - (length - side) / 2, 0) for length in grey.shape
    )
    circle = off_down[:, None] ** 2 + off_right**2 <= (side / 2) ** 2
    slope = np.hypot(along, down)[circle].astype(np.float64) / 8  # the kernel's weights
    strength = np.maximum(slope - _SLOPE, 0)
    place = (np.arctan2(down, along)[circle] / (2 * np.pi) % 1.0) * _DIRECTIONS
    lower = np.floor(place)
    share = place - lower
    low = lower.astype(np.int64) % _DIRECTIONS
    # Between the two nearest directions, so that a turn by less than a bin moves the histogram by less than one.
    histogram = np.bincount(low, strength * (1 - share), _DIRECTIONS)
    histogram += np.bincount((low + 1) % _DIRECTIONS, strength * share, _DIRECTIONS)
    total = histogram.sum()
    return histogram / total if total > 0 else np.full(_DIRECTIONS, 1 / _DIRECTIONS)
