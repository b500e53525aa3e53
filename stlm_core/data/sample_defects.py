"""Defects of the sample line, from faint to obvious, and their exact masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from stlm_core.data.sample_scene import (
    BORE,
    HOLE,
    HOLE_CIRCLE,
    HOLES,
    HUB,
    RIM,
    SIDE,
    Damage,
    Field,
    Part,
    edge,
    hole_centre,
    part_distance,
    photograph,
    render,
    smooth_noise,
)

MASK_LEVELS = 3.0  # a pixel is anomalous where a channel changed by more than this, of 255, before the grain
_SMALLEST = 12  # pixels: islands and holes of a mask below this are the surface's texture, not the defect

Light: TypeAlias = Field  # (SIDE, SIDE, 3) linear
Painter: TypeAlias = Callable[[Light, Part, np.random.Generator], Light]


@dataclass(frozen=True, slots=True)
class Point:
    """A place on the part: (x, y) in image coordinates, and the direction away from the part's centre."""

    x: float
    y: float
    outward: float


def apply_defect(kind: str, part: Part, rng: np.random.Generator) -> tuple[Field, NDArray[np.bool_]]:
    """The photograph of the damaged part before the grain, and its mask.

    Returns:
        (SIDE, SIDE, 3) levels 0..255, and bool (SIDE, SIDE): where any channel differs by more than
        :data:`MASK_LEVELS` from the photograph of the same part undamaged, without islands and holes of fewer
        than 12 pixels.
    """
    damage = Damage()
    if kind == "blocked_hole":
        damage = Damage(blocked_hole=int(rng.integers(HOLES)))
    elif kind == "chipped_edge":
        damage = Damage(chip=_chip(part, rng))
    sound = render(part, Damage())
    scene = _PAINTERS[kind](sound, part, rng) if kind in _PAINTERS else render(part, damage)
    photo = photograph(scene, part)
    change = np.abs(photo - photograph(sound, part)).max(axis=2)
    return photo, _clean(change > MASK_LEVELS)


def _clean(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop islands, then fill holes, of fewer than ``_SMALLEST`` pixels (8-connected islands, 4-connected holes)."""
    for value, connectivity in ((True, 8), (False, 4)):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(
            (mask == value).astype(np.uint8), connectivity=connectivity
        )
        small = np.flatnonzero(stats[1:count, cv2.CC_STAT_AREA] < _SMALLEST) + 1
        mask = np.where(np.isin(labels, small), not value, mask)
    return mask


def _place(part: Part, rng: np.random.Generator, inner: float, outer: float, hole_gap: float) -> Point:
    """A random place with ``inner`` <= radius <= ``outer``, its centre ``hole_gap`` away from every hole's edge."""
    while True:
        radius, angle = rng.uniform(inner, outer), rng.uniform(0, 2 * np.pi)
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        if all(np.hypot(x - hx, y - hy) > HOLE + hole_gap for hx, hy in map(hole_centre, range(HOLES))):
            return _on_image(part, radius, angle)


def _on_image(part: Part, radius: float, angle: float) -> Point:
    world = angle + part.pose.angle
    reach = radius * part.pose.scale
    return Point(part.pose.x + reach * np.cos(world), part.pose.y + reach * np.sin(world), world)


def _offsets(point: Point) -> tuple[Field, Field]:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    return columns - point.x, rows - point.y


def _on_metal(part: Part) -> Field:
    return edge(part_distance(part, Damage()) + 0.5, 1.5)


def _blob(point: Point, rng: np.random.Generator, size: float, roughness: float) -> Field:
    """Signed distance to an irregular spot of radius about ``size``, negative inside."""
    dx, dy = _offsets(point)
    turn, squeeze = rng.uniform(0, np.pi), rng.uniform(0.72, 1.0)
    along = np.cos(turn) * dx + np.sin(turn) * dy
    across = (-np.sin(turn) * dx + np.cos(turn) * dy) / squeeze
    return np.asarray(np.sqrt(along**2 + across**2) - size * (1.0 + roughness * smooth_noise(rng, 0.42 * size)))


def _curve(point: Point, rng: np.random.Generator, length: float, bend: float) -> tuple[Field, Field]:
    """Distance to a wandering line that starts at ``point``, and the position along it, 0..1."""
    pieces = 28
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0.0, bend, pieces) + rng.normal(0.0, bend))
    steps = length / pieces * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    nodes = np.vstack([[0.0, 0.0], np.cumsum(steps, axis=0)])
    nodes -= nodes[pieces // 2]  # the place is the middle of the line
    dx, dy = _offsets(point)
    best, position = np.full((SIDE, SIDE), np.inf), np.zeros((SIDE, SIDE))
    for index, (start, step) in enumerate(zip(nodes[:-1], steps, strict=True)):
        x, y = dx - start[0], dy - start[1]
        t = np.clip((x * step[0] + y * step[1]) / (step @ step), 0.0, 1.0)
        distance = (x - t * step[0]) ** 2 + (y - t * step[1]) ** 2
        nearer = distance < best
        best, position = np.where(nearer, distance, best), np.where(nearer, (index + t) / pieces, position)
    return np.sqrt(best), position


def _chip(part: Part, rng: np.random.Generator) -> Field:
    at = _on_image(part, RIM + rng.uniform(0.0, 4.0), rng.uniform(0, 2 * np.pi))
    return _blob(at, rng, rng.uniform(11.0, 19.0), 0.30)


def _scratch(scene: Light, part: Part, rng: np.random.Generator) -> Light:
    """A groove: a bright flank, a dark flank, thinner at its ends; material is pushed aside, not coloured."""
    point = _place(part, rng, HUB + 12, RIM - 14, 2.0)
    distance, position = _curve(point, rng, rng.uniform(55, 100), 0.025)
    width = rng.uniform(0.9, 1.35) * np.sqrt(np.clip(4.0 * position * (1.0 - position), 0.06, 1.0))
    depth = rng.uniform(0.75, 1.2)
    bright = np.exp(-((distance / width) ** 2))
    dark = np.exp(-(((distance - 2.1 * width) / (1.1 * width)) ** 2))
    change = (0.38 * bright - 0.17 * dark) * depth * _on_metal(part)
    return np.asarray(np.maximum(scene + change[..., None], 0.01))


def _dent(scene: Light, part: Part, rng: np.random.Generator) -> Light:
    """A shallow hollow: the slope toward the light darkens, the opposite slope catches it."""
    size = rng.uniform(8.5, 14.0)
    dx, dy = _offsets(_place(part, rng, HUB + 14, RIM - 15, 7.0))
    turn, squeeze = rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
    along, across = np.cos(turn) * dx + np.sin(turn) * dy, (-np.sin(turn) * dx + np.cos(turn) * dy) / squeeze
    toward = (np.cos(part.light.direction) * dx + np.sin(part.light.direction) * dy) / size
    fall = np.exp(-((along**2 + across**2) / size**2))
    shading = -rng.uniform(0.75, 1.1) * toward * fall - 0.14 * fall
    return np.asarray(scene * (1.0 + shading * _on_metal(part))[..., None])


def _stain(scene: Light, part: Part, rng: np.random.Generator) -> Light:
    """Dried coolant: a thin brown film with a darker tide line where it stopped."""
    spot = _blob(_place(part, rng, HUB + 8, RIM - 12, -4.0), rng, rng.uniform(14, 25), 0.20)
    strength = rng.uniform(0.65, 1.15) * _on_metal(part)
    film = edge(spot, 5.0) * (1.0 + 0.25 * smooth_noise(rng, 6.0))
    tide = np.exp(-((spot / 1.9) ** 2))
    colour = np.array([0.15, 0.19, 0.29])
    return np.asarray(scene * (1.0 - (strength * (film + 0.75 * tide))[..., None] * colour))


def _fibre(scene: Light, part: Part, rng: np.random.Generator) -> Light:
    """A textile thread lying on the part, with its shadow."""
    point = _place(part, rng, BORE + 10, RIM - 10, -6.0)
    distance, _ = _curve(point, rng, rng.uniform(55, 110), 0.16)
    away = -np.array([np.cos(part.light.direction), np.sin(part.light.direction)])
    right, down = (round(2.4 * float(value)) for value in away)
    shade = np.roll(np.exp(-((distance / 2.2) ** 2)), (down, right), axis=(0, 1))
    colours = np.array([[0.10, 0.16, 0.34], [0.40, 0.09, 0.08], [0.80, 0.78, 0.72], [0.07, 0.07, 0.08]])
    colour = colours[rng.integers(len(colours))] * rng.uniform(0.85, 1.15)
    thread = edge(distance - rng.uniform(0.9, 1.3), 1.2)[..., None]
    return np.asarray(scene * (1.0 - 0.42 * shade)[..., None] * (1.0 - thread) + colour * thread)


def _heat_tint(scene: Light, part: Part, rng: np.random.Generator) -> Light:
    """A straw-coloured oxide film from grinding too hot: broad, soft, hardly darker than the metal."""
    point = _place(part, rng, HUB + 18, HOLE_CIRCLE + 8, -30.0)
    size = rng.uniform(19, 29)
    film = edge(_blob(point, rng, size, 0.12), 1.1 * size) * rng.uniform(0.75, 1.2) * _on_metal(part)
    return np.asarray(scene * (1.0 - film[..., None] * np.array([0.03, 0.11, 0.30])))


_PAINTERS: dict[str, Painter] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
    "fibre": _fibre,
    "heat_tint": _heat_tint,
}
DEFECT_TYPES = ("blocked_hole", "chipped_edge", "dent", "fibre", "heat_tint", "scratch", "stain")
