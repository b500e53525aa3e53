"""Pictures as bytes, and as texts that a page holds in itself."""

from __future__ import annotations

import base64
import io

import markupsafe
import numpy as np
import numpy.typing as npt
from PIL import Image

from stlm_core.evaluation.heatmap import TURBO


def jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """uint8 (H, W, 3) RGB as JPEG, without the loss of colour that JPEG has by default."""
    return _encoded(pixels, "JPEG", quality=88, subsampling=0)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """uint8 (H, W, 3) RGB as PNG."""
    return _encoded(pixels, "PNG")


def data_uri(kind: str, content: bytes) -> markupsafe.Markup:
    """``content`` as an address that holds it; ``kind``: "jpeg" or "png"."""
    # Base64 holds nothing to escape; escaping megabytes of it would only cost time.
    return markupsafe.Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode()}")


def colour_scale() -> markupsafe.Markup:
    """The colours of the heat maps from 0 to 1, left to right, as an address."""
    return data_uri("png", png(np.repeat(TURBO[None], 12, axis=0)))


def _encoded(pixels: npt.NDArray[np.uint8], kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return stream.getvalue()
