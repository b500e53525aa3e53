"""Masks of COCO annotations: polygons, run lengths as numbers, and run lengths packed into a string."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stlm_core.errors import UserError

_MAX_POINTS = 100_000  # of one polygon
_MAX_CHARACTERS = 8  # of one packed number: 40 bits


@dataclass(frozen=True, slots=True)
class Polygon:
    """Corners (x, y) in pixels; the top left pixel covers 0..1 in both. The outline may cross itself (even-odd)."""

    points: tuple[tuple[float, float], ...]

    def area(self) -> float:
        """Square pixels inside, as the shoelace formula has it."""
        return abs(math.fsum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in _edges(self.points))) / 2

    def mark(self, mask: NDArray[np.bool_]) -> None:
        """Mark in ``mask`` (H, W) the pixels whose centre is inside, or those a thinner polygon's outline crosses."""
        left, right = _span([x for x, _ in self.points], mask.shape[1])
        top, bottom = _span([y for _, y in self.points], mask.shape[0])
        if left >= right or top >= bottom:
            return
        points = [(x - left, y - top) for x, y in self.points]
        inside = _fill(points, bottom - top, right - left)
        if not inside.any():
            inside = _trace(points, bottom - top, right - left)
        mask[top:bottom, left:right] |= inside


@dataclass(frozen=True, slots=True)
class Runs:
    """Lengths of runs of pixels, down the columns from the top left, unmarked and marked in turn."""

    counts: tuple[int, ...]

    def area(self) -> float:
        """Marked pixels."""
        return sum(self.counts[1::2])

    def mark(self, mask: NDArray[np.bool_]) -> None:
        """Mark the runs in ``mask`` (H, W), which must have as many pixels as they have."""
        marked = np.arange(len(self.counts)) % 2 == 1
        mask |= np.repeat(marked, self.counts).reshape(mask.shape, order="F")


@dataclass(frozen=True, slots=True)
class CocoMask:
    """The union of shapes on an image of the given size, in pixels."""

    width: int
    height: int
    shapes: tuple[Polygon | Runs, ...]

    def draw(self) -> NDArray[np.uint8]:
        """The mask, (H, W), 0 or 255.

        Raises:
            UserError: there is too little memory for an image of this size.
        """
        try:
            mask = np.zeros((self.height, self.width), np.bool_)
            for shape in self.shapes:
                shape.mark(mask)
            return mask.astype(np.uint8) * np.uint8(255)
        except MemoryError:
            raise UserError(f"mask of {self.width} x {self.height} pixels: too large for the memory left") from None


def read_shapes(segmentation: Any, width: int, height: int) -> tuple[Polygon | Runs, ...]:
    """The shapes of an annotation's ``segmentation``, as JSON has it, on an image of the given size in pixels.

    Raises:
        ValueError: it is no mask on such an image; the message says why.
    """
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            raise ValueError(f"run lengths whose size is not the image's [{height}, {width}]")
        return (Runs(_counts(segmentation.get("counts"), width * height)),)
    if not isinstance(segmentation, list):
        raise ValueError("a segmentation that is neither polygons nor run lengths")
    if not segmentation:
        raise ValueError("no segmentation, so no exact mask; draw a polygon or a mask")
    return tuple(_polygon(values, width, height) for values in segmentation)


def _polygon(values: Any, width: int, height: int) -> Polygon:
    if not isinstance(values, list) or not all(_is_number(value) for value in values):
        raise ValueError("a polygon that is not a list of numbers")
    if len(values) % 2:
        raise ValueError("a polygon with an odd number of coordinates")
    if not 6 <= len(values) <= 2 * _MAX_POINTS:
        raise ValueError(f"a polygon with {len(values) // 2} corners, 3 to {_MAX_POINTS} are possible")
    # Annotation tools place corners a little outside; further out it is another image's polygon, or another unit.
    if any(not -width <= x <= 2 * width for x in values[::2]) or any(
        not -height <= y <= 2 * height for y in values[1::2]
    ):
        raise ValueError(f"a polygon far outside the image of {width} x {height} pixels")
    return Polygon(tuple((float(x), float(y)) for x, y in zip(values[::2], values[1::2], strict=True)))


def _counts(counts: Any, pixels: int) -> tuple[int, ...]:
    if isinstance(counts, str):
        counts = unpack_counts(counts)
    elif not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("run lengths that are neither whole numbers nor a string")
    if any(count < 0 for count in counts) or sum(counts) != pixels:
        raise ValueError(f"run lengths that do not add up to the image's {pixels} pixels")
    return tuple(counts)


def unpack_counts(packed: str) -> list[int]:
    """Run lengths from COCO's compressed string.

    Each character is 48 plus six bits: five of the number, the lowest first, and one, 32, that says whether more
    follow; the highest of a number's bits is its sign. From the fourth on, a number is the difference to the length two
    before.

    Raises:
        ValueError: it is no such string.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for char in packed:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift >= 5 * _MAX_CHARACTERS:
            raise ValueError("run lengths in a damaged string")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("run lengths in a string that is cut off")
    return counts


def _fill(points: Sequence[tuple[float, float]], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels (H, W) whose centre is inside: right of an odd number of edges."""
    toggles = np.zeros((height, width + 1), np.uint8)
    for ends in _edges(points):
        (x0, y0), (x1, y1) = sorted(ends, key=lambda end: end[1])
        rows = np.arange(max(0, math.ceil(y0 - 0.5)), min(height, math.ceil(y1 - 0.5)))
        if rows.size:
            crossings = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
            toggles[rows, columns] ^= 1  # an edge meets each row once
    return np.bitwise_xor.accumulate(toggles[:, :width], axis=1).astype(np.bool_)


def _trace(points: Sequence[tuple[float, float]], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels (H, W) that the outline crosses."""
    crossed = np.zeros((height, width), np.bool_)
    for (x0, y0), (x1, y1) in _edges(points):
        steps = np.linspace(0, 1, 2 * math.ceil(max(abs(x1 - x0), abs(y1 - y0))) + 2)  # half a pixel at most
        columns = np.floor(x0 + steps * (x1 - x0)).astype(np.int64)
        rows = np.floor(y0 + steps * (y1 - y0)).astype(np.int64)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        crossed[rows[inside], columns[inside]] = True
    return crossed


def _span(values: Sequence[float], size: int) -> tuple[int, int]:
    """First pixel that ``values`` touch and the one after the last, of ``size`` pixels."""
    return max(0, math.floor(min(values))), min(size, math.floor(max(values)) + 1)


def _edges(
    points: Sequence[tuple[float, float]],
) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    return zip(points, [*points[1:], points[0]], strict=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
