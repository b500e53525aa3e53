"""Anomaly maps as PNG files."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from stlm_core.evaluation.heatmap import overlay

_LARGEST = 65535


def map_to_png(anomaly_map: npt.NDArray[np.float32]) -> bytes:
    """A 16-bit grey PNG: pixel value / 65535 is the map's value. ``anomaly_map``: float (H, W) in [0, 1]."""
    return _png(np.rint(np.clip(anomaly_map, 0, 1) * _LARGEST).astype(np.uint16))


def overlay_to_png(image: npt.NDArray[np.uint8], anomaly_map: npt.NDArray[np.float32], raw_threshold: float) -> bytes:
    """The image with its heat map over it, coloured as in the line's report, as an RGB PNG.

    Args:
        image: uint8 (H, W, 3) RGB.
        anomaly_map: float (H, W) in [0, 1].
        raw_threshold: the threshold on uncalibrated scores; the middle of the colour scale.
    """
    return _png(overlay(image, anomaly_map, raw_threshold))


def _png(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
