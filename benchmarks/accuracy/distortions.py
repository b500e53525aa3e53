"""What light, optics, transmission and handling do to an image; ground truth moves along."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Distorted = tuple[Pixels, Mask | None]
Distortion = Callable[[Pixels, Mask | None], Distorted]

_NETWORK = 256  # pixels; lengths are those at this size, whatever the image's own


def unchanged(image: Pixels, mask: Mask | None) -> Distorted:
    """The image as it is."""
    return image, mask


def brightness(image: Pixels, mask: Mask | None, *, factor: float) -> Distorted:
    """All values times ``factor``, rounded, clipped to 255."""
    return np.clip(np.rint(image * factor), 0, 255).astype(np.uint8), mask


def blur(image: Pixels, mask: Mask | None, *, sigma: float) -> Distorted:
    """Gaussian blur of ``sigma`` pixels of an image resized to 256 x 256."""
    height, width = image.shape[:2]
    kernel = ImageFilter.GaussianBlur((sigma * width / _NETWORK, sigma * height / _NETWORK))
    return np.asarray(Image.fromarray(image).filter(kernel), dtype=np.uint8).copy(), mask


def jpeg(image: Pixels, mask: Mask | None, *, quality: int) -> Distorted:
    """Saved as JPEG and read again."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=quality)
    with Image.open(stream) as stored:
        return np.asarray(stored.convert("RGB"), dtype=np.uint8).copy(), mask


def rotate(image: Pixels, mask: Mask | None, *, degrees: float) -> Distorted:
    """Turned about the centre, counter-clockwise. Corners show the mirrored image, as a larger scene would show more of
    the same, and not an edge that no camera sees; the mask is mirrored with it."""
    height, width = image.shape[:2]
    border = max(height, width) // 4  # enough for some 25 degrees
    inside = slice(border, border + height), slice(border, border + width)

    def turned(pixels: npt.NDArray[np.uint8], resample: Image.Resampling) -> npt.NDArray[np.uint8]:
        around = np.pad(pixels, [(border, border), (border, border), (0, 0)][: pixels.ndim], mode="symmetric")
        return np.asarray(Image.fromarray(around).rotate(degrees, resample), dtype=np.uint8)[inside].copy()

    moved = None if mask is None else turned(mask.astype(np.uint8), Image.Resampling.NEAREST) > 0
    return turned(image, Image.Resampling.BILINEAR), moved


def shift(image: Pixels, mask: Mask | None, *, share: float) -> Distorted:
    """Moved right and down by ``share`` of either side, in whole pixels; what comes in is the mirrored image."""
    down, right = (round(share * side) for side in image.shape[:2])

    def moved(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        before = [(down, 0), (right, 0), (0, 0)][: pixels.ndim]
        return np.pad(pixels, before, mode="symmetric")[: pixels.shape[0], : pixels.shape[1]].copy()

    return moved(image).astype(np.uint8), None if mask is None else moved(mask).astype(np.bool_)


DISTORTIONS: Mapping[str, Distortion] = {
    "none": unchanged,
    "brightness +20 %": partial(brightness, factor=1.2),
    "brightness -20 %": partial(brightness, factor=0.8),
    "blur, sigma 1 px": partial(blur, sigma=1.0),
    "blur, sigma 2 px": partial(blur, sigma=2.0),
    "JPEG, quality 50": partial(jpeg, quality=50),
    "rotation by 5 degrees": partial(rotate, degrees=5.0),
    "shift by 5 %": partial(shift, share=0.05),
}
