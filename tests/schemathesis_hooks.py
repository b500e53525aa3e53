"""What schemathesis cannot know from the API's description: what an image is, and which lines there are."""

from __future__ import annotations

import io
import zlib

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/bmp": "BMP", "image/tiff": "TIFF"}


def image(file_format: str) -> st.SearchStrategy[bytes]:
    """Small images of a format."""

    def encode(seed: bytes, width: int, height: int, mode: str) -> bytes:
        numbers = np.random.default_rng(zlib.crc32(seed))
        pixels = numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(stream, file_format)
        return stream.getvalue()

    side = st.integers(1, 40)
    return st.builds(encode, st.binary(max_size=4), side, side, st.sampled_from(["L", "RGB"]))


for kind, name in FORMATS.items():
    schemathesis.openapi.media_type(kind, image(name))
schemathesis.openapi.media_type("application/octet-stream", image("PNG"))
schemathesis.openapi.format("binary", image("PNG"))


@schemathesis.hook
def map_path_parameters(context, path_parameters):  # type: ignore[no-untyped-def]
    """Mostly a line that is served: the others are answered with 404 before anything interesting happens."""
    name = (path_parameters or {}).get("line")
    if isinstance(name, str) and zlib.crc32(name.encode("utf-8", "surrogatepass")) % 4:
        path_parameters["line"] = "tiny"
    return path_parameters
