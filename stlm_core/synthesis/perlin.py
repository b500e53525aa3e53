"""Perlin noise and the masks cut from it (paper section 3.1)."""

from __future__ import annotations

import functools
import threading

import cv2
import numpy as np
import numpy.typing as npt

from stlm_core.errors import UserError

FloatImage = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Share of the image that a mask may cover: below, nothing is left of it on the network's grid; above, hardly any
# normal surroundings remain to tell the anomaly from.
MIN_MASK_FRACTION = 0.001
MAX_MASK_FRACTION = 0.7
_MAX_DRAWS = 1000
_STRIP = 1 << 15  # pixels worked on at a time: whole images of intermediate results would leave the processor's cache


@functools.lru_cache(maxsize=64)
def _lattice_axis(side: int, cells: int) -> tuple[npt.NDArray[np.intp], FloatImage, FloatImage]:
    """For ``side`` pixel centres laid over ``cells`` cells: cell index, offset in the cell and its fade weight.

    The fade 6t^5 - 15t^4 + 10t^3 is Perlin's (2002): first and second derivatives vanish at the lattice.
    """
    position = (np.arange(side, dtype=np.float64) + 0.5) * (cells / side)
    cell = np.minimum(position.astype(np.intp), cells - 1)
    offset = position - cell
    fade = offset**3 * (offset * (offset * 6 - 15) + 10)
    return cell, offset.astype(np.float32), fade.astype(np.float32)


class _Scratch(threading.local):
    """Two float images that a thread keeps from mask to mask: fresh memory costs as much as the arithmetic."""

    def __init__(self) -> None:
        self._images = np.empty((2, 0, 0), np.float32)

    def images(self, side: int) -> tuple[FloatImage, FloatImage]:
        if self._images.shape[1] != side:
            self._images = np.empty((2, side, side), np.float32)
        return self._images[0], self._images[1]


_scratch = _Scratch()


def perlin_noise(
    rng: np.random.Generator, height: int, width: int, cells_y: int, cells_x: int, out: FloatImage | None = None
) -> FloatImage:
    """Gradient noise, float32 of shape (height, width), in [-1, 1], zero on the lattice; written into ``out`` if given.

    ``cells_y`` by ``cells_x`` lattice cells cover the image; random unit gradients sit on the lattice points. The
    noise is the fade-weighted mean of the four corners' gradient ramps, times sqrt(2). It is separable given the
    gradients, so the sum over the corners along x runs on the few lattice rows only.
    """
    angle = rng.uniform(0, 2 * np.pi, size=(cells_y + 1, cells_x + 1))
    gradient_y = (np.sqrt(2) * np.sin(angle)).astype(np.float32)
    gradient_x = (np.sqrt(2) * np.cos(angle)).astype(np.float32)
    column, right, fade_x = _lattice_axis(width, cells_x)
    row, below, fade_y = _lattice_axis(height, cells_y)

    near, far = 1 - fade_x, fade_x
    # Ramps along x, and y gradients, interpolated along x at every lattice row: (cells_y + 1, width)
    ramp = gradient_x[:, column] * (near * right) + gradient_x[:, column + 1] * (far * (right - 1))
    slope = gradient_y[:, column] * near + gradient_y[:, column + 1] * far

    near, far, below = (1 - fade_y)[:, None], fade_y[:, None], below[:, None]
    terms = ((slope, row, near * below), (ramp, row + 1, far), (slope, row + 1, far * (below - 1)))
    noise: FloatImage = np.empty((height, width), np.float32) if out is None else out
    rows = max(1, _STRIP // width)
    term = np.empty((rows, width), np.float32)
    for start in range(0, height, rows):
        strip, part = slice(start, start + rows), noise[start : start + rows]
        added = term[: len(part)]
        ramp.take(row[strip], axis=0, out=part, mode="clip")
        part *= near[strip]
        for values, of, weight in terms:
            values.take(of[strip], axis=0, out=added, mode="clip")
            added *= weight[strip]
            part += added
    return noise


def rotated_perlin_noise(rng: np.random.Generator, side: int, max_exponent: int) -> FloatImage:
    """Perlin noise of shape (side, side) with a random scale per axis and a random rotation.

    The scales are 2^0 .. 2^``max_exponent`` cells, drawn per axis; the rotation is uniform in +-90 degrees. The
    corners that a rotation uncovers are filled by reflection, not with zeros as in the reference, so that anomalies
    are as likely there as anywhere else. The result is overwritten by the thread's next call.
    """
    upright, turned = _scratch.images(side)
    cells_y, cells_x = (int(2**exponent) for exponent in rng.integers(0, max_exponent + 1, size=2))
    perlin_noise(rng, side, side, cells_y, cells_x, upright)
    centre = (side - 1) / 2
    turn = cv2.getRotationMatrix2D((centre, centre), rng.uniform(-90, 90), 1.0)
    cv2.warpAffine(upright, turn, (side, side), dst=turned, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return turned


def perlin_mask(rng: np.random.Generator, side: int, max_exponent: int = 5, threshold: float = 0.5) -> Mask:
    """A random mask, bool of shape (side, side): rotated Perlin noise above ``threshold``.

    Noise whose mask would be nearly empty or nearly full is drawn again from the same generator.

    Raises:
        UserError: no draw gave a usable mask, because the threshold is next to the noise's maximum.
    """
    for _ in range(_MAX_DRAWS):
        mask: Mask = rotated_perlin_noise(rng, side, max_exponent) > threshold
        if MIN_MASK_FRACTION <= np.count_nonzero(mask) / mask.size <= MAX_MASK_FRACTION:
            return mask
    raise UserError(
        f"synthesize.perlin_threshold: noise never covers a usable area at {threshold}; use a lower threshold, 0.5 say"
    )
