"""Whether a picture was taken as the line's good pictures were: its light and its focus (docs/decisions/0020).

A picture that is out of focus or in other light tends to be called anomalous, part and defect regardless. The verdict
stands, and this says what to look at first: the camera.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Complaint = Literal["dark", "bright", "blurred", "grainy"]
COMPLAINTS: tuple[Complaint, ...] = ("dark", "bright", "blurred", "grainy")
SMALLEST_SIDE = 3
"""Of a network input, pixels: a Laplacian needs a neighbour on both sides."""

_MARGIN = 0.25  # of the range seen, beyond its ends
_MIDDLE = 128
_LEAST_BRIGHTNESS, _LEAST_SHARPNESS = 0.02, 0.25  # smallest margins: a line of few or of equal pictures


@dataclass(frozen=True)
class Capture:
    """Light and focus of one picture.

    ``brightness``: mean luminance in [0, 1]. ``sharpness``: natural logarithm of 1 + the variance of the Laplacian of
    the luminance, scaled to a mean of 128, so that less light is not less focus; after the picture was shrunk to the
    network's input, because what the network cannot see does not count.
    """

    brightness: float
    sharpness: float


@dataclass(frozen=True)
class CaptureRange:
    """Lowest and highest :class:`Capture` that is ordinary for a line."""

    brightness: tuple[float, float]
    sharpness: tuple[float, float]

    def complaints(self, capture: Capture) -> tuple[Complaint, ...]:
        """What is out of the ordinary, in the order of :data:`COMPLAINTS`; empty for an ordinary picture."""
        (darkest, brightest), (softest, sharpest) = self.brightness, self.sharpness
        found = (
            capture.brightness < darkest,
            capture.brightness > brightest,
            capture.sharpness < softest,
            capture.sharpness > sharpest,
        )
        return tuple(name for name, wrong in zip(COMPLAINTS, found, strict=True) if wrong)

    def to_json(self) -> str:
        """For the exported file's metadata; equal ranges give equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CaptureRange:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        found = json.loads(text)
        if not isinstance(found, dict) or set(found) != {"brightness", "sharpness"}:
            raise ValueError("needs `brightness` and `sharpness`")
        return cls(*(_pair(found[name]) for name in ("brightness", "sharpness")))


def measure_capture(pixels: npt.NDArray[np.uint8], side: int) -> Capture:
    """Light and focus of a picture, uint8 (H, W, 3) RGB, for a network input of ``side`` x ``side`` pixels, 3
    or more."""
    grey = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BOX)
    levels = np.asarray(grey, np.float32)
    middle = levels[1:-1, 1:-1]
    laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:] - 4 * middle
    mean = float(levels.mean(dtype=np.float64))
    scale = _MIDDLE / max(mean, 1.0)  # of a black picture nothing can be said
    return Capture(mean / 255, float(np.log1p(scale**2 * laplacian.var(dtype=np.float64))))


def ordinary_captures(good: Sequence[Capture]) -> CaptureRange:
    """What a line's good pictures, at least one, make ordinary: their range and a quarter of it beyond each end.

    At least 0.02 of brightness and a quarter of sharpness beyond, so that a handful of pictures condemns nothing.
    """
    return CaptureRange(
        _widened([one.brightness for one in good], _LEAST_BRIGHTNESS),
        _widened([one.sharpness for one in good], _LEAST_SHARPNESS),
    )


def _widened(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max(_MARGIN * (high - low), least)
    return low - margin, high + margin


def _pair(value: object) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(one, int | float) for one in value):
        raise ValueError(f"{value!r} is not a pair of numbers")
    low, high = (float(one) for one in value)
    if not low <= high:
        raise ValueError(f"{value!r} is not a range")
    return low, high
