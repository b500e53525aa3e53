"""Pillow's decoders, kept quiet, and kept from the hours of work that a few bytes can ask for."""

from __future__ import annotations

import ctypes
import functools
import logging
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, _imaging

from stlm_core.errors import UserError

# Every scan of a JPEG passes over all its pixels (libtiff allows as many), and Pillow joins EXIF segments one by one.
_MAX_SCANS, _MAX_EXIF_SEGMENTS = 100, 10_000
_SCAN, _EXIF_SEGMENT, _JPEG_END = b"\xff\xda", b"\xff\xe1", b"\xff\xd9"
_BLOCK = 1 << 16  # bytes looked at in one go
_JPEG_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # a marker with a length, or the end
# Pillow decodes a run-length BMP in Python; of a row that is left out, every pixel takes a step.
_MAX_RUN_LENGTH_PIXELS = 1 << 24
_RUN_LENGTHS = (1, 2)  # BMP's numbers for those of 8 and of 4 bits


@functools.cache
def silence_decoders() -> None:
    """Keep remarks about single files off standard error: what matters of them is in the error that is raised.

    Once and for good: neither the filters of warnings nor libtiff's handler can be changed for one thread alone.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    set_handler = getattr(ctypes.CDLL(_imaging.__file__), "TIFFSetErrorHandler", None)
    if set_handler is not None:  # libtiff is loaded with Pillow, but some builds hide its names
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def refuse_costly_jpeg(path: Path, content: bytes) -> None:
    """Count scans and EXIF segments of a JPEG; what follows the image's end (previews, films) is not looked at.

    Raises:
        UserError: there are far too many; ``path`` is only named.
    """
    many_scans = _count_scans(content) > _MAX_SCANS
    counts: Counter[bytes] = Counter()
    start = 2
    while (found := _JPEG_SEGMENT.search(content, start)) is not None:
        if found[0] == _JPEG_END or (found[0] == _SCAN and not many_scans):
            return
        counts[found[0]] += 1
        if counts[_SCAN] > _MAX_SCANS or counts[_EXIF_SEGMENT] > _MAX_EXIF_SEGMENTS:
            raise UserError(f"{path}: a JPEG of more parts than any camera writes; save it again")
        start = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")


def _count_scans(content: bytes) -> int:
    """How often the marker occurs anywhere. ``bytes.count`` says the same, but stops at every 0xFF or 0xDA to look."""
    values = np.frombuffer(content, np.uint8)
    found = 0
    for start in range(0, len(values), _BLOCK):
        part = values[start : start + _BLOCK + 1]
        marked = part[:-1] == _SCAN[0]
        marked &= part[1:] == _SCAN[1]
        found += int(np.count_nonzero(marked))
    return found


def refuse_costly_bmp(path: Path, image: Image.Image) -> None:
    """Look at the header of an opened BMP.

    Raises:
        UserError: it is large and stored as run lengths; ``path`` is only named.
    """
    if image.info.get("compression") in _RUN_LENGTHS and image.width * image.height > _MAX_RUN_LENGTH_PIXELS:
        raise UserError(f"{path}: {image.width} x {image.height} pixels are too many for run lengths; save it as PNG")
