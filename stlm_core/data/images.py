"""Image files in: opening, decoding to 8-bit RGB, masks, resizing. Every byte is untrusted."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stlm_core.data.decoders import refuse_costly_bmp, refuse_costly_jpeg, silence_decoders
from stlm_core.errors import UserError, first_line
from stlm_core.files import sha256_tree

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
DEFAULT_MAX_PIXELS = 100_000_000

# The content decides, not the name; the list keeps rarely tested decoders away from untrusted bytes.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_JPEG_FORMATS = frozenset({"JPEG", "MPO"})  # Pillow's name for a JPEG with further pictures in it
_HIGH_DEPTH_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_DIRECT_MODES = frozenset({"P", "RGBX", "CMYK", "YCbCr"})
_ROWS = 256  # resized at a time in floating point
_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class TooManyPixelsError(UserError):
    """An image's header announces more pixels than are allowed; none of them was decoded."""


def read_image(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an image to uint8 (H, W, 3) RGB, values 0..255, EXIF orientation applied.

    Grey becomes three equal channels. Alpha is composited on black. 16-bit grey is divided by 257, so that
    65535 becomes 255 (a 12-bit camera's files must be stretched by whoever writes them). CMYK is converted
    without a colour profile. Of a file with several pages the first is taken.

    Raises:
        UserError: the file cannot be read, is not a known image, is truncated or corrupt, its header announces more
            than ``max_pixels`` pixels (checked before decoding), or its pixel format cannot be shown as 8-bit RGB.
    """
    return decode_image(path, read_content(path), max_pixels)


def decode_image(path: Path, content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """The image in ``content`` by the rules of :func:`read_image`; ``path`` is only named.

    Raises:
        UserError: as :func:`read_image`; for too many pixels a :class:`TooManyPixelsError`.
    """
    with open_image(path, content, max_pixels) as image:
        orientation = stored_orientation(image)
        rgb = to_eight_bit(path, image)
        rgb = upright(rgb if rgb.mode == "RGB" else rgb.convert("RGB"), orientation)
        return np.asarray(rgb, dtype=np.uint8).copy()  # (H, W, 3), writable


def image_size(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """(width, height) after EXIF orientation, as the header says; no pixel is decoded.

    Raises:
        UserError: as :func:`read_image`, as far as the header shows it.
    """
    with open_image(path, read_content(path), max_pixels) as image:
        return rotated_size(image.size, stored_orientation(image))


def read_mask(
    path: Path,
    expected_hw: tuple[int, int],
    *,
    image: Path | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> NDArray[np.bool_]:
    """Decode a ground-truth mask to bool (H, W): a pixel is anomalous where the stored mask is > 0.

    The rule is applied to the original values (of colour masks: any channel, after compositing alpha on black),
    before any resize. Of a folder it is the union of the masks in it. ``expected_hw`` is the (height, width) of
    ``image``, which is only named in messages.

    Raises:
        UserError: as :func:`read_image`, a mask is a JPEG (its edges are not exact), its size differs, or the folder
            holds no image file.
    """
    union = np.zeros(expected_hw, np.bool_)
    for file in mask_files(path):
        marked = _read_mask_file(file, max_pixels)
        if marked.shape != expected_hw:
            of = f" {image}" if image is not None else ""
            raise UserError(
                f"{file}: the mask is {marked.shape[1]} x {marked.shape[0]} pixels, its image{of} is "
                f"{expected_hw[1]} x {expected_hw[0]}"
            )
        union |= marked
    return union


def mask_files(path: Path) -> list[Path]:
    """The files of a mask: ``path`` itself, or the image files in the folder ``path``, sorted by name.

    Raises:
        UserError: the folder cannot be listed or holds no image file.
    """
    if not path.is_dir():
        return [path]
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be listed: {error.strerror or error}") from None
    files = [path / name for name in names if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise UserError(f"{path}: no mask in the folder")
    return files


def mask_sha256(path: Path) -> str:
    """One sha256 for a mask: of the file, or of all files in the folder with their names.

    Raises:
        UserError: missing, or not readable.
    """
    return sha256_tree(path)


def resize_to(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Antialiased bilinear resize of uint8 (H, W, 3) to (size, size, 3).

    The same triangle filter as torch's ``interpolate(mode="bilinear", antialias=True, align_corners=False)``,
    rounded to whole levels: at most 1 level apart.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8).copy()


def resize_exactly(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """As :func:`resize_to` without rounding: float32 (size, size, 3) in [0, 255], as the detector itself resizes.

    Whole levels are not enough where a surface is smooth: averaging takes the camera's noise away, and of what is left,
    less than a level, networks see every stair (docs/decisions/0028).
    """
    if image.shape[:2] == (size, size):
        return image.astype(np.float32)
    exact = np.empty((size, size, 3), np.float32)
    narrow = np.empty((len(image), size), np.float32)
    for channel in range(3):
        for top in range(0, len(image), _ROWS):
            part = Image.fromarray(image[top : top + _ROWS, :, channel].astype(np.float32))
            narrow[top : top + _ROWS] = np.asarray(part.resize((size, part.height), Image.Resampling.BILINEAR))
        exact[..., channel] = np.asarray(Image.fromarray(narrow).resize((size, size), Image.Resampling.BILINEAR))
    return exact


def rotated_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) after applying an EXIF orientation 1..8 to a stored (width, height)."""
    return (size[1], size[0]) if orientation >= 5 else size


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """``image`` as it is meant to be seen, given its EXIF orientation 1..8."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def read_content(path: Path) -> bytes:
    """All bytes of a regular file.

    Raises:
        UserError: it cannot be read, is empty, or is something else than a file.
    """
    try:
        # Non-blocking, because opening a FIFO with an image's name would otherwise wait for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"{path}: not a regular file")
            content = stream.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not content:
        raise UserError(f"{path}: the file is empty")
    return content


@contextmanager
def open_image(path: Path, content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image in ``content``, its pixels not decoded yet; whatever a decoder raises becomes one sentence.

    Raises:
        UserError: see :func:`read_image`; ``path`` is only named.
    """
    silence_decoders()
    pillow_limit = 2 * (Image.MAX_IMAGE_PIXELS or max_pixels)
    try:
        if content.startswith(b"\xff\xd8"):
            refuse_costly_jpeg(path, content)
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise TooManyPixelsError(
                    f"{path}: {image.width} x {image.height} pixels is more than `data.max_pixels` = {max_pixels}"
                )
            if image.format == "PNG":
                _check_png(content)
            elif image.format == "BMP":
                refuse_costly_bmp(path, image)
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, before the size can be asked for
        found = re.search(r"\((\d+) pixels\)", str(error))
        size = f"{found[1]} pixels" if found else "it"
        limit = f"`data.max_pixels` = {max_pixels}" if max_pixels <= pillow_limit else f"{pillow_limit}, the most read"
        raise TooManyPixelsError(f"{path}: {size} is more than {limit}") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image in a known format (PNG, JPEG, BMP, TIFF, WebP)") from None
    except MemoryError:
        raise UserError(f"{path}: too large to decode in the memory that is left") from None
    except Exception as error:  # decoders raise nearly every type there is on damaged bytes
        raise UserError(f"{path}: damaged or truncated image: {first_line(error)}") from None


def _check_png(content: bytes) -> None:
    """Compare the checksums of all PNG chunks: the decoder itself accepts some damaged pixel data."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        image.verify()


def stored_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 where there is none or where Pillow itself applies it."""
    if image.format == "TIFF":
        return 1
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unusable
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSE else 1


def to_eight_bit(path: Path, image: Image.Image) -> Image.Image:
    """The pixels of an opened image as mode "L" (one grey channel) or "RGB", by the rules of :func:`read_image`.

    Raises:
        UserError: see :func:`read_image`; ``path`` is only named.
    """
    if image.mode in _HIGH_DEPTH_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"{path}: 32-bit values outside 0..65535; save it with 8 or 16 bits a channel")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in _DIRECT_MODES:
        return image.convert("RGB")
    raise UserError(f"{path}: pixel format {image.mode} is not supported; save it as 8-bit grey or RGB")


def _read_mask_file(path: Path, max_pixels: int) -> NDArray[np.bool_]:
    with open_image(path, read_content(path), max_pixels) as stored:
        if stored.format in _JPEG_FORMATS:
            raise UserError(f"{path}: a JPEG mask has no exact edges; save the mask as PNG")
        orientation = stored_orientation(stored)
        if stored.mode in _HIGH_DEPTH_MODES | {"F"}:
            marked = np.asarray(stored) > 0
        else:
            levels = np.asarray(to_eight_bit(path, stored))  # (H, W) or (H, W, 3)
            marked = (levels if levels.ndim == 2 else levels.max(axis=2)) > 0
    if orientation in _TRANSPOSE:
        marked = np.asarray(upright(Image.fromarray(marked.astype(np.uint8)), orientation)) > 0
    return np.asarray(marked, dtype=np.bool_)
