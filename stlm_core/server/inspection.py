"""One image through a champion: decode, predict, draw. Runs in a worker thread."""

from __future__ import annotations

import io
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from stlm_core.data.images import TooManyPixelsError, decode_image
from stlm_core.errors import UserError
from stlm_core.evaluation.heatmap import TURBO, colour_level
from stlm_core.runtime.capture import Complaint
from stlm_core.server.champion import Champion
from stlm_core.server.problems import ProblemError
from stlm_core.server.schemas import Verdict

SHOWN_SIDE = 768
"""Longer side of what is kept and drawn, pixels: finer than any anomaly map, which has at most 64 x 64 cells."""

THUMBNAIL_SIDE = 128
_NAMED = Path("image")
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class Shown:
    """What the page shows of an inspection.

    ``image``: uint8 (h, w, 3) RGB; ``level``: uint8 (h, w), the place on the colour scale; both at most
    ``SHOWN_SIDE`` on the longer side.
    """

    image: npt.NDArray[np.uint8]
    level: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Result:
    """An inspected image. Sizes and places in pixels after EXIF rotation, times in seconds.

    ``complaints``: how the picture differs in light and focus from the line's good ones.
    ``shown``: None when neither a heat map nor the page needs it. ``heat_map``: a PNG if asked for.
    """

    id: str
    champion: Champion
    inspected_at: datetime
    score: float
    is_anomalous: bool
    width: int
    height: int
    peak_x: int
    peak_y: int
    peak_value: float
    complaints: tuple[Complaint, ...]
    decode_seconds: float
    inference_seconds: float
    render_seconds: float
    shown: Shown | None
    heat_map: bytes | None

    @property
    def verdict(self) -> Verdict:
        """The decision in one word."""
        return "anomalous" if self.is_anomalous else "normal"


def inspect_image(champion: Champion, content: bytes, *, max_pixels: int, heat_map: bool, keep: bool) -> Result:
    """Score an image as ``stlm predict`` does.

    Args:
        content: the file's bytes, not trusted.
        max_pixels: more in the header are refused before decoding.
        heat_map: also draw the heat map.
        keep: also make what the page shows.

    Raises:
        ProblemError: 413 for too many pixels, 422 for what cannot be decoded.
        StlmError: the model failed.
    """
    began = time.perf_counter()
    pixels = _decode(content, max_pixels)
    decoded = time.perf_counter()
    prediction = champion.session.predict(pixels[None])
    predicted = time.perf_counter()
    complaints = champion.session.complaints(pixels)
    anomaly_map = prediction.anomaly_maps[0]
    y, x = (int(index) for index in np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape))
    shown = _shown(pixels, anomaly_map, champion.session.raw_threshold) if heat_map or keep else None
    picture = heat_map_png(shown.level) if heat_map and shown else None
    return Result(
        id=secrets.token_urlsafe(9),
        champion=champion,
        inspected_at=datetime.now(UTC),
        score=_shortest(prediction.scores[0]),
        is_anomalous=bool(prediction.is_anomalous[0]),
        width=pixels.shape[1],
        height=pixels.shape[0],
        peak_x=x,
        peak_y=y,
        peak_value=_shortest(anomaly_map[y, x]),
        complaints=complaints,
        decode_seconds=decoded - began,
        inference_seconds=predicted - decoded,
        render_seconds=time.perf_counter() - predicted,
        shown=shown if keep else None,
        heat_map=picture,
    )


def _decode(content: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    if not content:
        raise ProblemError(422, "image: the body is empty", code="image_unreadable")
    try:
        return decode_image(_NAMED, content, max_pixels)
    except TooManyPixelsError:
        detail = f"image: its header announces more than the {max_pixels} pixels that this server takes"
        raise ProblemError(413, detail, code="image_too_large") from None
    except UserError as error:
        raise ProblemError(422, str(error), code="image_unreadable") from None


def _shown(pixels: npt.NDArray[np.uint8], anomaly_map: npt.NDArray[np.float32], raw_threshold: float) -> Shown:
    height, width = anomaly_map.shape
    scale = min(1.0, SHOWN_SIDE / max(height, width))
    image = pixels
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # `reducing_gap` shrinks a large image by whole factors first: ten times faster, and no difference is seen.
        image = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        small = Image.fromarray(anomaly_map).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        anomaly_map = np.asarray(small)
    level = np.rint(colour_level(anomaly_map, raw_threshold) * 255).astype(np.uint8)
    return Shown(image, level)


def heat_map_png(level: npt.NDArray[np.uint8]) -> bytes:
    """Colours whose opacity is the level itself, uint8 (h, w) -> RGBA PNG.

    Laid over the image at 70% opacity it is the overlay of `stlm predict` and of the reports.
    """
    return _encoded(Image.fromarray(np.dstack([TURBO[level], level])), "PNG", compress_level=1)


def image_jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """What was inspected, uint8 (h, w, 3) -> JPEG."""
    return _encoded(Image.fromarray(image), "JPEG", quality=_JPEG_QUALITY)


def thumbnail_jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """The same, at most ``THUMBNAIL_SIDE`` on the longer side."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return _encoded(small, "JPEG", quality=_JPEG_QUALITY)


def _encoded(image: Image.Image, file_format: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=file_format, **options)
    return stream.getvalue()


def _shortest(value: np.float32) -> float:
    """Nine digits tell any two float32 apart, so that a score just above the threshold reads so."""
    return float(f"{float(value):.9g}")
