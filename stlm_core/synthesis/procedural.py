"""The embedded texture set: families of procedural surfaces, so that no binary data has to be shipped.

A family is a function (generator, side) -> field, float32 of shape (side, side), any range; it is normalised to
[0, 1] and coloured by a random palette. The families are varied on purpose: what matters for training is that
anomalies differ from the part in many ways, not that a texture looks like any material.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from stlm_core.synthesis.perlin import perlin_noise

Field = npt.NDArray[np.float32]
Rng = np.random.Generator


def fractal_noise(rng: Rng, side: int, cells: int, octaves: int, gain: float = 0.5) -> Field:
    """Sum of Perlin octaves, (side, side), about [-1, 1]: ``cells`` lattice cells, doubled per octave."""
    total = np.zeros((side, side), np.float32)
    for octave in range(octaves):
        total += gain**octave * perlin_noise(rng, side, side, cells << octave, cells << octave)
    return total


def _axes(rng: Rng, side: int) -> tuple[Field, Field]:
    """Coordinates along a random direction and across it, (side, side) each, in about [-0.7, 0.7]."""
    line = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = line[None, :], line[:, None]
    return x * cos + y * sin, y * cos - x * sin


def _seeds(rng: Rng, side: int, count: int) -> tuple[Field, npt.NDArray[np.int32]]:
    """Distance in pixels to the nearest of ``count`` random points, and that point's number from 1: (side, side)."""
    canvas = np.full((side, side), 255, np.uint8)
    points = rng.integers(0, side, size=(count, 2))
    canvas[points[:, 0], points[:, 1]] = 0
    distance, label = cv2.distanceTransformWithLabels(canvas, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return np.asarray(distance, np.float32), np.asarray(label, np.int32)


def _clouds(rng: Rng, side: int) -> Field:
    return fractal_noise(rng, side, int(rng.integers(2, 7)), 5)


def _ridges(rng: Rng, side: int) -> Field:
    return 1 - np.abs(fractal_noise(rng, side, int(rng.integers(2, 6)), 4))


def _grain(rng: Rng, side: int) -> Field:
    noise = rng.standard_normal((side, side), dtype=np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), side * rng.uniform(0.002, 0.012)), np.float32)


def _stripes(rng: Rng, side: int) -> Field:
    along, _ = _axes(rng, side)
    wave = np.sin(2 * np.pi * rng.uniform(4, 40) * along + 4 * rng.random() * fractal_noise(rng, side, 2, 2))
    return np.tanh(wave * np.float32(rng.uniform(0.5, 6)))


def _checks(rng: Rng, side: int) -> Field:
    along, across = _axes(rng, side)
    squares = np.sin(2 * np.pi * rng.uniform(3, 16) * along) * np.sin(2 * np.pi * rng.uniform(3, 16) * across)
    return np.tanh(squares * np.float32(rng.uniform(2, 20)))


def _weave(rng: Rng, side: int) -> Field:
    along, across = _axes(rng, side)
    count = rng.uniform(8, 30)
    over = np.sin(2 * np.pi * count * along) > np.sin(np.pi * count * across)
    return np.where(over, np.abs(np.sin(np.pi * count * along)), 0.6 * np.abs(np.sin(np.pi * count * across)))


def _cells(rng: Rng, side: int) -> Field:
    distance, _ = _seeds(rng, side, int(rng.integers(20, 250)))
    return distance


def _mosaic(rng: Rng, side: int) -> Field:
    _, label = _seeds(rng, side, int(rng.integers(15, 200)))
    shade = rng.random(int(label.max()) + 1, dtype=np.float32)
    return shade[label]


def _cracks(rng: Rng, side: int) -> Field:
    _, label = _seeds(rng, side, int(rng.integers(8, 60)))
    bend = (side * 0.03 * np.stack([fractal_noise(rng, side, 6, 3) for _ in range(2)])).astype(np.float32)
    rows, columns = np.indices((side, side), dtype=np.float32)
    bent = cv2.remap(
        label.astype(np.float32), columns + bend[0], rows + bend[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )
    edge = cv2.morphologyEx(bent, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    soft = cv2.GaussianBlur(edge.astype(np.float32), (0, 0), rng.uniform(0.6, 2))
    return soft + np.float32(0.1) * fractal_noise(rng, side, 4, 3)


def _blobs(rng: Rng, side: int) -> Field:
    noise = fractal_noise(rng, side, int(rng.integers(3, 12)), 2)
    return np.tanh((noise - np.float32(rng.uniform(-0.2, 0.2))) * np.float32(rng.uniform(5, 30)))


def _wood(rng: Rng, side: int) -> Field:
    along, across = _axes(rng, side)
    warp = fractal_noise(rng, side, 3, 3)
    rings = np.hypot(along * np.float32(rng.uniform(0.1, 0.4)), across + np.float32(rng.uniform(-0.5, 0.5)))
    wave = np.sin(2 * np.pi * (rng.uniform(10, 30) * rings + 0.4 * warp))
    return wave + np.float32(0.3) * cv2.blur(rng.standard_normal((side, side), dtype=np.float32), (1, 9))


def _marble(rng: Rng, side: int) -> Field:
    along, _ = _axes(rng, side)
    vein = np.sin(2 * np.pi * (rng.uniform(1, 4) * along + rng.uniform(1, 2) * fractal_noise(rng, side, 3, 5)))
    return np.abs(vein) ** np.float32(rng.uniform(0.3, 1))


def _fibres(rng: Rng, side: int) -> Field:
    canvas = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(60, 250))):
        start, angle = rng.uniform(0, side, 2), rng.uniform(0, 2 * np.pi)
        bend = angle + np.cumsum(rng.normal(0, 0.25, 8))
        steps = side * 0.05 * np.stack([np.cos(bend), np.sin(bend)], axis=1)
        points = np.rint((start + np.cumsum(steps, axis=0)) * 8).astype(np.int32)
        cv2.polylines(canvas, [points], False, float(rng.uniform(0.3, 1)), 1, cv2.LINE_AA, 3)
    return canvas + np.float32(0.1) * fractal_noise(rng, side, 8, 2)


def _brushed(rng: Rng, side: int) -> Field:
    noise = rng.standard_normal((2 * side, 2 * side), dtype=np.float32)
    drawn = cv2.blur(noise, (max(3, side // int(rng.integers(3, 9))), 1))
    turn = cv2.getRotationMatrix2D((side, side), rng.uniform(0, 180), 1.0)
    turned = cv2.warpAffine(drawn, turn, (2 * side, 2 * side), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned[side // 2 : side // 2 + side, side // 2 : side // 2 + side], np.float32)


def _gradient(rng: Rng, side: int) -> Field:
    along, across = _axes(rng, side)
    ramp = np.hypot(along, across) if rng.random() < 0.3 else along
    return ramp + np.float32(0.03) * rng.standard_normal((side, side), dtype=np.float32)


def _dots(rng: Rng, side: int) -> Field:
    along, across = _axes(rng, side)
    count = np.float32(rng.uniform(6, 30))
    offset = np.hypot((along * count) % 1 - 0.5, (across * count) % 1 - 0.5)
    return np.tanh((np.float32(rng.uniform(0.2, 0.45)) - offset) * np.float32(rng.uniform(4, 30)))


def _scratches(rng: Rng, side: int) -> Field:
    canvas = np.float32(0.3) * fractal_noise(rng, side, 3, 4)
    for _ in range(int(rng.integers(10, 60))):
        start, angle, length = rng.uniform(0, side, 2), rng.normal(0, 0.4), side * rng.exponential(0.3)
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        first, last = (np.rint(point * 8).astype(np.int32).tolist() for point in (start, end))
        cv2.line(canvas, first, last, float(rng.uniform(-1, 1)), int(rng.integers(1, 3)), cv2.LINE_AA, 3)
    return canvas


def _patches(rng: Rng, side: int) -> Field:
    canvas = np.float32(0.1) * fractal_noise(rng, side, 4, 3)
    for _ in range(int(rng.integers(10, 80))):
        centre = rng.integers(0, side, 2).tolist()
        axes = np.maximum(1, side * rng.uniform(0.01, 0.12, 2)).astype(int).tolist()
        cv2.ellipse(
            canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(-1, 1)), -1, cv2.LINE_AA
        )
    return canvas


FAMILIES: dict[str, Callable[[Rng, int], Field]] = {
    "blobs": _blobs,
    "brushed": _brushed,
    "cells": _cells,
    "checks": _checks,
    "clouds": _clouds,
    "cracks": _cracks,
    "dots": _dots,
    "fibres": _fibres,
    "gradient": _gradient,
    "grain": _grain,
    "marble": _marble,
    "mosaic": _mosaic,
    "patches": _patches,
    "ridges": _ridges,
    "scratches": _scratches,
    "stripes": _stripes,
    "weave": _weave,
    "wood": _wood,
}


def procedural_texture(family: str, rng: Rng, side: int) -> npt.NDArray[np.uint8]:
    """A random member of ``family``, uint8 RGB of shape (side, side, 3).

    Raises:
        KeyError: no such family in ``FAMILIES``.
    """
    field = FAMILIES[family](rng, side).astype(np.float32)
    low, high = np.percentile(field, (0.5, 99.5))
    field = np.clip((field - low) / max(high - low, 1e-6), 0, 1)
    # Real surfaces vary in lightness more than in hue: grey levels plus a chroma that is mostly small.
    stops = np.linspace(0, 255, int(rng.integers(2, 5)))
    lightness = rng.uniform(0, 255, size=(len(stops), 1))
    hue = rng.normal(0, 1, size=3) + rng.normal(0, 0.5, size=(len(stops), 3))
    colours = np.clip(lightness + rng.exponential(30) * hue, 0, 255)  # (stops, 3)
    palette = np.stack([np.interp(np.arange(256), stops, channel) for channel in colours.T], axis=1)  # (256, 3)
    index = np.rint(field * 255).astype(np.uint8)
    return np.rint(palette).astype(np.uint8)[index]  # (side, side, 3)
