"""Anomaly maps as colours on a scale that is fixed by the line, so that pictures can be compared.

0 is dark blue, the line's threshold the middle of the scale (green), 1 dark red. Colours are Google's "turbo"
(Anton Mikhailov, 2019, Apache-2.0): as vivid as "jet", but its lightness rises and falls once, without false edges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_OPACITY = 0.7
_STEP = 15
_KNOTS = np.array(
    [  # every 15th of the 256 colours; straight lines between are within 6 levels of the original
        *[(48, 18, 59), (63, 62, 156), (70, 102, 221), (69, 140, 253), (47, 178, 244), (26, 212, 208)],
        *[(34, 235, 170), (82, 250, 122), (139, 255, 75), (183, 247, 53), (219, 226, 54), (245, 197, 58)],
        *[(254, 161, 48), (249, 117, 29), (232, 75, 12), (206, 45, 4), (169, 22, 1), (122, 4, 3)],
    ]
)


def _table() -> npt.NDArray[np.uint8]:
    levels, knots = np.arange(256), np.arange(0, 256, _STEP)
    channels = [np.interp(levels, knots, _KNOTS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)  # (256, 3)


TURBO = _table()


def colour_level(anomaly_map: npt.NDArray[np.floating], raw_threshold: float) -> npt.NDArray[np.float32]:
    """Position on the colour scale, [0, 1]: 0 -> 0, the threshold -> 0.5, 1 -> 1, straight lines between.

    ``anomaly_map``: any shape, in [0, 1]. ``raw_threshold``: on the same scale.
    """
    middle = min(max(raw_threshold, 1e-6), 1 - 1e-6)
    return np.asarray(np.interp(anomaly_map, (0.0, middle, 1.0), (0.0, 0.5, 1.0)), dtype=np.float32)


def heat_map(anomaly_map: npt.NDArray[np.floating], raw_threshold: float) -> npt.NDArray[np.uint8]:
    """Colours of an anomaly map: (H, W) in [0, 1] -> uint8 (H, W, 3) RGB."""
    return TURBO[np.rint(colour_level(anomaly_map, raw_threshold) * 255).astype(np.uint8)]


def overlay(
    image: npt.NDArray[np.uint8], anomaly_map: npt.NDArray[np.floating], raw_threshold: float
) -> npt.NDArray[np.uint8]:
    """The heat map over the image, the more opaque the higher: uint8 (H, W, 3) and (H, W) -> uint8 (H, W, 3)."""
    opacity = _OPACITY * colour_level(anomaly_map, raw_threshold)[..., None]  # (H, W, 1)
    mixed = image * (1 - opacity) + heat_map(anomaly_map, raw_threshold) * opacity
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def outline(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: tuple[int, int, int] = (255, 0, 200)
) -> npt.NDArray[np.uint8]:
    """The image with the edge of the mask drawn just outside it: uint8 (H, W, 3) and (H, W) -> uint8 (H, W, 3).

    The edge is 2 pixels of ``colour`` with 1 pixel of black around, so that it shows on any image.
    """
    drawn = image.copy()
    twice = _grown(_grown(mask))
    drawn[_grown(twice) & ~twice] = 0
    drawn[twice & ~mask] = colour
    return drawn


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    wide = grown.copy()
    wide[:, 1:] |= grown[:, :-1]
    wide[:, :-1] |= grown[:, 1:]
    return wide
