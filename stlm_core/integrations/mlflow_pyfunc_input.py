"""What callers of the model in MLflow may hand over as an image, made uint8 (H, W, 3). Every byte is untrusted.

Shipped inside the model, see :mod:`stlm_core.integrations.mlflow_model`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from stlm_core.data.images import DEFAULT_MAX_PIXELS, decode_image, read_image, to_eight_bit
from stlm_core.errors import UserError

ALLOW_PATHS = "STLM_ALLOW_PATHS"
_LONGEST_PATH = 4096  # characters
_CHANNELS = (1, 3, 4)
_KINDS = "the bytes of an image file, base64 text, or an array uint8 H x W x 3"


def single_images(column: Iterable[Any]) -> Iterator[Any]:
    """The cells of a column, one image each.

    MLflow makes ``{"image": [text, text]}`` one row that holds a list, and wraps a single text in an array without
    dimensions: both are undone here.
    """
    for cell in column:
        value = cell.item() if isinstance(cell, np.ndarray) and cell.ndim == 0 else cell
        if isinstance(value, list | np.ndarray) and len(value) and isinstance(value[0], str | bytes | os.PathLike):
            yield from value
        else:
            yield value


def to_pixels(value: Any, name: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """One image as uint8 (H, W, 3) RGB, by the rules of ``stlm predict``.

    Text is base64, with or without ``data:...;base64,`` in front. Where the environment says ``STLM_ALLOW_PATHS=1``
    it may also name a file: text may come from anybody, and a server that opens what it is told to is a hole. A
    :class:`~pathlib.Path` cannot come through a server, so it is opened always. Nested lists are (H, W, C): MLflow
    takes arrays in a dict apart, and a pile of grey images would look like one image in colour.

    Args:
        value: bytes of an image file, text, path, array uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), nested lists.
        name: what to call it in error messages.

    Raises:
        UserError: it is none of these, cannot be read as an image, or has more than ``max_pixels`` pixels.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return decode_image(Path(name), bytes(value), max_pixels)
    if isinstance(value, os.PathLike):
        return read_image(Path(value), max_pixels)
    if isinstance(value, str):
        if _names_a_file(value):
            return read_image(Path(value), max_pixels)
        return decode_image(Path(name), _from_base64(value, name), max_pixels)
    if isinstance(value, list):
        return _from_array(_from_lists(value, name), name, max_pixels)
    if isinstance(value, np.ndarray):
        return _from_array(value, name, max_pixels)
    if value is None or type(value).__name__ in ("float", "NAType"):  # how pandas writes that there is nothing
        raise UserError(f"{name}: no image; give {_KINDS}")
    raise UserError(f"{name}: a value of type {type(value).__name__} is no image; give {_KINDS}")


def _names_a_file(text: str) -> bool:
    return os.environ.get(ALLOW_PATHS) == "1" and len(text) <= _LONGEST_PATH and os.path.isfile(text)


def _from_base64(text: str, name: str) -> bytes:
    start = text.find(",", 0, 200) if text[:5].lower() == "data:" else -1
    if start >= 0 and not text[:start].lower().endswith(";base64"):
        raise UserError(f"{name}: a data URL that is not base64")
    try:
        content = base64.b64decode("".join(text[start + 1 :].split()), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(
            f"{name}: the text is not base64 (paths are read only as pathlib.Path, or where {ALLOW_PATHS}=1)"
        ) from None
    if not content:
        raise UserError(f"{name}: no image; give {_KINDS}")
    return content


def _from_lists(value: list[Any], name: str) -> npt.NDArray[np.uint8]:
    try:
        numbers = np.asarray(value)
    except ValueError:  # rows of unequal length
        numbers = np.empty(0)
    whole = numbers.ndim == 3 and numbers.size > 0 and numbers.dtype.kind in "iu"
    if not whole or numbers.min() < 0 or numbers.max() > 255:
        raise UserError(f"{name}: nested lists must be H x W x 3 whole numbers from 0 to 255")
    return numbers.astype(np.uint8)


def _from_array(array: npt.NDArray[Any], name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or array.size == 0 or not _is_picture(array.shape):
        shape = " x ".join(map(str, array.shape))
        raise UserError(f"{name}: an array {array.dtype} {shape} is no image; give uint8 H x W x 3, grey or RGBA")
    height, width = array.shape[:2]
    if height * width > max_pixels:
        raise UserError(f"{name}: {width} x {height} pixels is more than {max_pixels}")
    picture = to_eight_bit(Path(name), Image.fromarray(np.ascontiguousarray(array)))  # alpha goes as in a file
    return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS)
