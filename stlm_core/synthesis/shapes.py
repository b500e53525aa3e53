"""Outlines of small defects, and where on a part to put them (beyond the paper, docs/decisions/0016)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
FloatImage = npt.NDArray[np.float32]

_COARSE = 64  # side of the grid on which content is measured
_FLOOR = 0.15  # weight of an empty place, in means of the content
_ROUNDING = 1e-6  # more than what sums of a few numbers near 1 lose
_HARMONICS = range(2, 7)


@dataclass(frozen=True)
class Placed:
    """An outline on an image: the window ``rows``, ``columns`` of the image and the ``mask`` (h, w) inside it."""

    rows: slice
    columns: slice
    mask: Mask

    def on(self, side: int) -> Mask:
        """The mask on the whole image, (side, side)."""
        whole = np.zeros((side, side), np.bool_)
        whole[self.rows, self.columns] = self.mask
        return whole

    def softened(self, sigma: float) -> FloatImage:
        """The mask as weights (h, w, 1) in [0, 1], edges softened by ``sigma`` pixels; zero outside the mask."""
        weights = self.mask.astype(np.float32)
        if sigma > 0.3:
            weights *= cv2.GaussianBlur(weights, (0, 0), sigma)
        return weights[..., None]


def draw_centre(image: Image, rng: np.random.Generator) -> tuple[float, float]:
    """A position (x, y) in pixels of ``image`` (S, S, 3), more often where there is structure than where there is none.

    Defects are on parts, and most pictures are mostly background. Structure is what a local mean leaves of the
    luminance on a grid of 64 x 64.
    """
    side = image.shape[0]
    small = cv2.cvtColor(cv2.resize(image, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    level = small.astype(np.float32)
    content = cv2.blur(np.abs(level - cv2.blur(level, (9, 9))), (5, 5))
    weight = np.cumsum((content + _FLOOR * content.mean() + 1e-3).ravel(), dtype=np.float64)
    cell = min(int(np.searchsorted(weight, rng.random() * weight[-1])), _COARSE**2 - 1)
    y, x = divmod(cell, _COARSE)
    return (x + rng.random()) * side / _COARSE, (y + rng.random()) * side / _COARSE


def place(outline: Mask, centre: tuple[float, float], side: int) -> Placed | None:
    """``outline`` with its middle at ``centre``, cut at the image's border; None if nothing of it is inside."""
    height, width = outline.shape
    top, left = int(centre[1] - height / 2), int(centre[0] - width / 2)
    rows = slice(max(0, top), min(side, top + height))
    columns = slice(max(0, left), min(side, left + width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    mask = outline[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return Placed(rows, columns, mask) if mask.any() else None


def draw_blob(side: int, rng: np.random.Generator, low: float = 3e-4, high: float = 2e-2) -> Mask:
    """A wavy ellipse; its area is log-uniform in [``low``, ``high``] of an image of ``side`` pixels."""
    area = np.exp(rng.uniform(np.log(low), np.log(high))) * side**2
    stretch = np.exp(rng.uniform(-1.0, 1.0))
    across, along = (max(1.5, float(np.sqrt(area / np.pi * factor))) for factor in (1 / stretch, stretch))
    reach = int(np.ceil(1.6 * max(across, along))) + 2
    x = np.arange(-reach, reach + 1, dtype=np.float32)
    y = x[:, None]
    turn = rng.uniform(0, np.pi)
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / across, (y * np.cos(turn) - x * np.sin(turn)) / along
    waves = [(harmonic, rng.normal(0, 0.18 / harmonic), rng.uniform(0, 2 * np.pi)) for harmonic in _HARMONICS]
    # Angles are slow, and asked for only where the waves decide.
    distance, highest = np.hypot(u, v), sum(abs(height) for _, height, _ in waves) + _ROUNDING
    blob = np.asarray(distance < 1, np.bool_)
    near = np.abs(distance - 1) <= highest
    angle = np.arctan2(v[near], u[near])
    edge = np.ones_like(angle)
    for harmonic, height, phase in waves:
        edge += height * np.cos(harmonic * angle + phase)
    blob[near] = distance[near] < edge
    return blob


def draw_bar(side: int, rng: np.random.Generator) -> Mask:
    """A straight bar, 4 to 30 % of ``side`` long and 0.6 to 4 % wide: CutPaste's scar."""
    length = np.exp(rng.uniform(np.log(0.04), np.log(0.3))) * side
    width = np.exp(rng.uniform(np.log(0.006), np.log(0.04))) * side
    turn = rng.uniform(0, np.pi)
    half = np.array([np.cos(turn), np.sin(turn)]) * length / 2
    return _stroke([-half, half], max(1, round(width)))


def draw_curve(side: int, rng: np.random.Generator) -> Mask:
    """A bent line, 5 to 45 % of ``side`` long and 1 to 4 pixels of 256 wide: a scratch, crack or hair."""
    length = np.exp(rng.uniform(np.log(0.05), np.log(0.45))) * side
    pieces = int(rng.integers(2, 6))
    turn = rng.uniform(0, 2 * np.pi)
    points = [-np.array([np.cos(turn), np.sin(turn)]) * length / 2]
    for _ in range(pieces):
        turn += rng.normal(0, 0.35)
        points.append(points[-1] + np.array([np.cos(turn), np.sin(turn)]) * length / pieces)
    return _stroke(points, max(1, round(int(rng.integers(1, 5)) * side / 256)))


def draw_area(side: int, rng: np.random.Generator) -> Mask:
    """A large area: a blob of 2 to 25 % of the image, a four-sided patch, or a band across it, 5 to 40 % wide."""
    kind = rng.random()
    if kind < 1 / 3:
        return draw_blob(side, rng, 2e-2, 2.5e-1)
    width = np.exp(rng.uniform(np.log(0.05), np.log(0.4))) * side
    length = 3.0 * side if kind < 2 / 3 else width * np.exp(rng.uniform(0, 1.2))
    turn = rng.integers(4) * np.pi / 2 if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, width / 2]
    corners += rng.normal(0, 0.1, corners.shape) * width
    corners = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    reach = int(np.ceil(np.abs(corners).max())) + 1
    canvas = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    cv2.fillPoly(canvas, [np.rint(corners + reach).astype(np.int32)], 1)
    return canvas.view(np.bool_)


def _stroke(points: list[npt.NDArray[np.float64]], width: int) -> Mask:
    """A polyline around the origin, drawn ``width`` pixels wide in the smallest square window around the origin."""
    reach = int(np.ceil(max(float(np.abs(point).max()) for point in points))) + width + 2
    canvas = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    cv2.polylines(canvas, [np.rint(np.array(points) + reach).astype(np.int32)], False, 1, width)
    return canvas.view(np.bool_)
