"""How a line's parts lie: whether its good images themselves are turned against each other (docs/decisions/0023).

Told from edges alone: turning a part by 30 degrees turns the directions of its edges by 30 degrees. Where the parts lie
as they happen to, the histograms of two images agree well once one of them is moved round, and badly before; where
they are aligned, or look the same from all sides, moving gains next to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic
from stlm_core.synthesis.rotation import RotationPolicy

FILE = "pose.json"
LOOKED_AT = 64  # images: 2,016 pairs
_FEWEST = 8
_DIRECTIONS = 36  # bins of 10 degrees; divisible by 4
_EDGE_SIDE, _EDGE_SIGMA = 256, 1.5  # largest side that is looked at; grain has no direction
# Aligned lines keep 0.69 to 1 of the difference, parts and textures turned at random 0.11 to 0.6 (decision 0023).
_LARGEST_REST = 0.6
_SMALLEST_DIFFERENCE = 0.05  # share of the edges; two images of one aligned part differ by 0.03
_QUARTERS_DO = 1.3  # times the rest after quarter turns; other turns leave 1.4 to 5 times as much


@dataclass(frozen=True, slots=True)
class Pose:
    """``policy``: how images may be turned. ``difference``: share of edges, 0..1, whose direction differs between two
    images in the mean; ``rest``: the share of that difference which is left after the best turn; both None where the
    policy is a setting or there were too few images."""

    policy: RotationPolicy
    difference: float | None = None
    rest: float | None = None

    def write(self, folder: Path) -> None:
        write_bytes_atomic(folder / FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read_pose(folder: Path) -> Pose:
    """The pose that was found or set when the bank in ``folder`` was made.

    Raises:
        UserError: there is none, or it is not one.
    """
    try:
        found = json.loads((folder / FILE).read_bytes())
        pose = Pose(**found)
        if pose.policy not in ("none", "small", "quarter", "any"):
            raise ValueError("unknown policy")
    except (OSError, ValueError, TypeError):
        raise UserError(f"{folder / FILE}: cannot be read; run `stlm synthesize --force` again") from None
    return pose


def find_pose(images: Iterable[npt.NDArray[np.uint8]]) -> Pose:
    """``any``, ``quarter`` or ``none`` by good ``images`` (S, S, 3) of a line; ``none`` of fewer than 8."""
    found = [edge_directions(image) for image in images]
    if len(found) < _FEWEST:
        return Pose("none")
    histograms = np.stack(found)
    first, second = np.triu_indices(len(histograms), 1)
    # (36, pairs): half the L1 distance after a turn by every multiple of 10 degrees
    apart = np.stack(
        [np.abs(histograms[first] - np.roll(histograms[second], turn, 1)).sum(1) / 2 for turn in range(_DIRECTIONS)]
    )
    difference, rest = float(apart[0].mean()), float(apart.min(0).mean())
    share = rest / difference if difference > 0 else 1.0
    policy: RotationPolicy = "none"
    if difference >= _SMALLEST_DIFFERENCE and share < _LARGEST_REST:
        quarters = apart[:: _DIRECTIONS // 4]
        policy = "quarter" if float(quarters.min(0).mean()) < _QUARTERS_DO * rest else "any"
    return Pose(policy, round(difference, 4), round(share, 4))


def edge_directions(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Share of the edges of ``image`` (S, S, 3) in each of 36 directions of brightness, (36,), summing to 1; inside the
    largest circle, whose pixels stay in the picture whichever way it is turned. Without an edge all are equal."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    side = min(len(grey), _EDGE_SIDE)
    if len(grey) > side:
        grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _EDGE_SIGMA)
    along, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    offsets = np.arange(side) - (side - 1) / 2
    circle = offsets[:, None] ** 2 + offsets**2 <= (side / 2) ** 2
    strength = np.hypot(along, down)[circle].astype(np.float64)
    place = (np.arctan2(down, along)[circle] / (2 * np.pi) % 1.0) * _DIRECTIONS
    lower = np.floor(place)
    share = place - lower
    low = lower.astype(np.int64) % _DIRECTIONS
    # Between the two nearest directions, so that a turn by less than a bin moves the histogram by less than one.
    histogram = np.bincount(low, strength * (1 - share), _DIRECTIONS)
    histogram += np.bincount((low + 1) % _DIRECTIONS, strength * share, _DIRECTIONS)
    total = histogram.sum()
    return histogram / total if total > 0 else np.full(_DIRECTIONS, 1 / _DIRECTIONS)
