"""The scene of the sample line: a turned metal flange on a conveyor belt, under an inspection camera.

Everything is 64-bit arithmetic on one pixel grid with analytic edges, so that images are equal on every machine
once rounded to 8 bits. Lengths are pixels at :data:`SIDE`, light is linear and relative to a white of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 320
HOLES = 6
RIM, HUB, BORE = 118.0, 55.0, 27.0  # radii
HOLE_CIRCLE, HOLE = 89.0, 10.5
FIRST_HOLE = 0.26  # its angle, radians
SHADOW = 7.0  # length of the shadow

Field: TypeAlias = NDArray[np.float64]  # (SIDE, SIDE), or (SIDE, SIDE, 3) for colours


@dataclass(frozen=True, slots=True)
class Pose:
    """Centre (x, y), rotation in radians, scale of the part, and the belt's offset under it."""

    x: float
    y: float
    angle: float
    scale: float
    belt: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Light:
    """Direction the light comes from (radians), exposure, white balance, and fall-off across the image."""

    direction: float
    exposure: float
    balance: tuple[float, float, float]
    gradient: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Damage:
    """Changes of the part's shape: index of a bolt hole that was never drilled, and what is broken off its rim.

    ``chip`` is a signed distance field in image coordinates, negative where material is missing.
    """

    blocked_hole: int | None = None
    chip: Field | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One part in its pose: every pixel's place in the part's own frame, and the part's own randomness."""

    pose: Pose
    light: Light
    radius: Field
    angle: Field
    marks: Field  # turning marks, about -1..1
    patina: Field  # slow unevenness of the surface, about -1..1
    belt: Field  # background reflectance
    hole: NDArray[np.int64]  # index of the bolt hole nearest to every pixel
    hole_distance: Field  # distance to that hole's centre
    hole_facing: Field  # how far that hole's wall faces the light there, -1..1


def smooth_noise(rng: np.random.Generator, scale: float, stretch: float = 1.0, margin: int = 0) -> Field:
    """Gaussian noise of correlation length ``scale`` (x longer by ``stretch``), zero mean, unit deviation."""
    side = SIDE + 2 * margin
    # Coarse noise is drawn on a coarser grid: the same look for a fraction of the time.
    step = max(1, int(min(scale, scale * stretch) / 2))
    shape = (-(-side // step) + 4, -(-side // step) + 4)
    coarse = _blur(rng.standard_normal(shape), scale * stretch / step, scale / step)
    noise = _enlarge(coarse, step)[:side, :side] if step > 1 else coarse[:side, :side]
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-12), dtype=np.float64)


def edge(distance: Field, width: float = 1.0) -> Field:
    """1 where ``distance`` is negative, 0 where positive, a smooth step ``width`` pixels wide between."""
    t = np.clip(0.5 - distance / width, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float64)


def make_part(rng: np.random.Generator) -> Part:
    """Draw a part with its natural variation: pose, light, turning marks, patina, and a stretch of the belt."""
    pose = Pose(
        x=SIDE / 2 + rng.uniform(-7, 7),
        y=SIDE / 2 + rng.uniform(-7, 7),
        angle=np.deg2rad(rng.uniform(-7, 7)),
        scale=rng.uniform(0.985, 1.015),
        belt=(rng.uniform(0, 1000), rng.uniform(0, 1000)),
    )
    light = Light(
        direction=np.deg2rad(-125 + rng.uniform(-12, 12)),
        exposure=rng.uniform(0.90, 1.10),
        balance=(rng.uniform(0.98, 1.02), 1.0, rng.uniform(0.97, 1.03)),
        gradient=(rng.uniform(-0.10, 0.10), rng.uniform(-0.10, 0.10)),
    )
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    dx, dy = (columns - pose.x) / pose.scale, (rows - pose.y) / pose.scale
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    x, y = cos * dx + sin * dy, -sin * dx + cos * dy
    radius, angle = np.sqrt(x * x + y * y), np.arctan2(y, x)
    hole, hole_distance, hole_facing = _nearest_hole(radius, angle, pose.angle - light.direction)
    return Part(
        pose=pose,
        light=light,
        radius=radius,
        angle=angle,
        marks=_turning_marks(rng, radius, angle),
        patina=0.7 * smooth_noise(rng, 38.0) + 0.4 * smooth_noise(rng, 9.0),
        belt=_belt(rng, rows, columns, pose.belt),
        hole=hole,
        hole_distance=hole_distance,
        hole_facing=hole_facing,
    )


def hole_centre(index: int) -> tuple[float, float]:
    """(x, y) of a bolt hole in the part's frame."""
    at = FIRST_HOLE + 2.0 * np.pi * index / HOLES
    return float(HOLE_CIRCLE * np.cos(at)), float(HOLE_CIRCLE * np.sin(at))


def part_distance(part: Part, damage: Damage) -> Field:
    """Signed distance to the flange's outline, negative on metal."""
    distance = np.maximum(part.radius - RIM, BORE - part.radius)
    distance = np.maximum(distance, HOLE - _open_hole_distance(part, damage))
    if damage.chip is not None:
        distance = np.maximum(distance, -damage.chip)
    return np.asarray(distance)


def render(part: Part, damage: Damage) -> Field:
    """Linear light (SIDE, SIDE, 3) of the scene without lens and sensor."""
    metal, background = _metal(part, damage), _background(part, damage)
    cover = edge(part_distance(part, damage), 1.3)[..., None]
    return np.asarray(background * (1.0 - cover) + metal * cover)


def photograph(scene: Field, part: Part) -> Field:
    """The camera without its noise: lens blur, vignette, exposure, tone curve; (SIDE, SIDE, 3), levels 0..255."""
    light = part.light
    rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    falloff = 1.0 + light.gradient[0] * columns + light.gradient[1] * rows
    vignette = 1.0 - 0.13 * (rows * rows + columns * columns)
    image = scene * (falloff * vignette * light.exposure)[..., None] * np.array(light.balance)
    image = _blur(image, 0.75)
    image = np.maximum(image, 0.0)
    image = image / (1.0 + 0.22 * image * image)  # the sensor's shoulder: highlights roll off
    return np.asarray(255.0 * image**0.46, dtype=np.float64)


def expose(photo: Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The sensor: shot and read noise that is partly shared by the channels, then 8 bits."""
    sigma = 1.1 + 0.085 * np.sqrt(np.maximum(photo, 0.0))
    grain = rng.standard_normal((SIDE, SIDE, 1)) * 0.75 + rng.standard_normal((SIDE, SIDE, 3)) * 0.65
    grain = _blur(grain, 0.5) * 1.35
    return np.clip(np.rint(photo + sigma * grain), 0, 255).astype(np.uint8)


def _blur(field: Field, sigma_x: float, sigma_y: float = 0.0) -> Field:
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma_x, sigmaY=sigma_y or sigma_x), dtype=np.float64)


def _enlarge(coarse: Field, step: int) -> Field:
    size = (coarse.shape[1] * step, coarse.shape[0] * step)
    return np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), dtype=np.float64)


def _nearest_hole(radius: Field, angle: Field, turn: float) -> tuple[NDArray[np.int64], Field, Field]:
    """Index of the nearest bolt hole, distance to its centre, cosine of the direction from it to the light."""
    pitch = 2.0 * np.pi / HOLES
    index = np.rint((angle - FIRST_HOLE) / pitch)
    folded = angle - FIRST_HOLE - pitch * index  # the hole lies at 0 in this frame
    x, y = radius * np.cos(folded) - HOLE_CIRCLE, radius * np.sin(folded)
    distance = np.sqrt(x * x + y * y)
    hole = index.astype(np.int64) % HOLES
    frame = FIRST_HOLE + pitch * np.arange(HOLES) + turn
    facing = (x * np.cos(frame)[hole] - y * np.sin(frame)[hole]) / np.maximum(distance, 1e-9)
    return hole, distance, facing


def _open_hole_distance(part: Part, damage: Damage) -> Field:
    if damage.blocked_hole is None:
        return part.hole_distance
    return np.where(part.hole == damage.blocked_hole, np.inf, part.hole_distance)


def _turning_marks(rng: np.random.Generator, radius: Field, angle: Field) -> Field:
    """Concentric tool marks: noise along the radius, a slow change along the turn."""
    grid = np.arange(0.0, 280.0, 0.25)
    fine = _blur(rng.standard_normal((1, grid.size)), 2.2)[0]
    coarse = _blur(rng.standard_normal((1, grid.size)), 14.0)[0]
    profile = fine / fine.std() + 0.6 * coarse / coarse.std()
    wobble = radius + 0.35 * np.cos(angle - rng.uniform(0, 2 * np.pi))  # the chuck is never quite centred
    streaks = _polar_noise(rng, radius, angle)
    return np.asarray(0.55 * np.interp(wobble, grid, profile) + 0.65 * streaks)


def _polar_noise(rng: np.random.Generator, radius: Field, angle: Field) -> Field:
    """Noise stretched along the turn: short arcs, as abrasive finishing leaves."""
    turns, rings = 256, 240
    noise = rng.standard_normal((rings, turns))
    noise = _blur(np.concatenate([noise[:, -32:], noise, noise[:, :32]], axis=1), 7.0, 0.6)
    noise = noise[:, 32:-32] / noise.std()
    r = np.clip(radius, 0, rings - 2)
    a = (angle / (2 * np.pi) + 0.5) * turns
    r0, a0 = np.floor(r).astype(np.int64), np.floor(a).astype(np.int64)
    fr, fa = r - r0, a - a0
    left, right = a0 % turns, (a0 + 1) % turns
    inner = noise[r0, left] * (1 - fa) + noise[r0, right] * fa
    outer = noise[r0 + 1, left] * (1 - fa) + noise[r0 + 1, right] * fa
    return np.asarray(inner * (1 - fr) + outer * fr)


def _belt(rng: np.random.Generator, rows: Field, columns: Field, offset: tuple[float, float]) -> Field:
    """Woven rubber: a diagonal weave that moves with the belt, wear along its run, dust."""
    u = (columns + offset[0]) * 0.88 + 0.9 * smooth_noise(rng, 25.0)
    v = (rows + offset[1]) * 0.88 + 0.9 * smooth_noise(rng, 25.0)
    weave = np.sin((u + v) * 0.72) * np.sin((u - v) * 0.72)
    wear = smooth_noise(rng, 5.0, stretch=14.0)
    speckle = smooth_noise(rng, 0.9)
    dust = np.maximum(smooth_noise(rng, 1.1) - 2.7, 0.0)
    return np.asarray(0.060 + 0.016 * weave + 0.009 * wear + 0.007 * speckle + 0.12 * dust)


def _metal(part: Part, damage: Damage) -> Field:
    radius, world = part.radius, part.angle + part.pose.angle
    toward = world - part.light.direction
    # A turned face reflects like a record: two opposite lobes, across the direction of the light.
    lobe = np.abs(np.cos(toward)) ** 5
    second = np.abs(np.cos(toward - 0.62)) ** 22
    face = 0.30 + 0.27 * lobe + 0.10 * second
    hub = 0.36 + 0.20 * np.abs(np.cos(toward + 0.25)) ** 4
    on_hub = edge(radius - HUB, 1.5)
    value = face * (1 - on_hub) + hub * on_hub
    value = value * (1.0 + 0.085 * part.marks + 0.045 * part.patina)
    value = value * _groove(radius, 58.5, 2.6, 0.42) * _groove(radius, 108.0, 0.9, 0.16)
    facing = np.cos(toward)
    value = value + _chamfer(radius - RIM, 4.2, 0.40 * facing)
    value = value + 0.26 * np.exp(-(((radius - HUB) / 1.7) ** 2)) * facing
    value = value + _chamfer(BORE - radius, 4.0, -0.34 * facing)
    value = value + _chamfer(HOLE - _open_hole_distance(part, damage), 2.6, -0.30 * part.hole_facing)
    if damage.chip is not None:
        # A fracture is bright, rough metal in a narrow band along the break.
        band = np.exp(-((np.maximum(damage.chip, 0.0) / 2.6) ** 2)) * (damage.chip > -2.0)
        value = value + band * (0.16 + 0.10 * part.patina)
    value = np.maximum(value, 0.015)
    return np.asarray(value[..., None] * np.array([1.0, 0.985, 0.955]))


def _groove(radius: Field, at: float, width: float, depth: float) -> Field:
    return np.asarray(1.0 - depth * np.exp(-(((radius - at) / width) ** 2)))


def _chamfer(distance: Field, width: float, light: Field) -> Field:
    """Light added on a bevel ``width`` pixels wide just inside an edge."""
    return np.asarray(edge(-(distance + width), 1.2) * edge(distance, 1.2) * light)


def _background(part: Part, damage: Damage) -> Field:
    """The belt in the part's shadow; through bore and holes it lies deep and dark, with a lit wall."""
    solid = edge(part_distance(part, damage), 1.5)
    right, down = (round(-SHADOW * float(f(part.light.direction))) for f in (np.cos, np.sin))
    moved = np.roll(solid, (down, right), axis=(0, 1))  # the margin around the part is wider than its shadow
    shadow = _blur(moved, 4.5)
    inside = edge(part.radius - RIM + 8.0, 2.0)
    belt = part.belt * (1.0 - 0.78 * shadow) * (1.0 - 0.35 * inside)
    toward = part.angle + part.pose.angle - part.light.direction
    wall = np.exp(-(((part.radius - BORE + 3.0) / 2.2) ** 2)) * np.maximum(-np.cos(toward), 0.0) * 0.22
    return np.asarray(belt[..., None] * np.array([0.93, 1.03, 1.0]) + wall[..., None] * np.array([1.0, 0.98, 0.94]))
