"""Kinds of pseudo anomaly besides the paper's Perlin mask with a texture (beyond the paper, docs/decisions/0016).

A detector that learns from one kind finds that kind. Each family imitates what happens to parts: something foreign on
them, a piece of them in the wrong place, scratched, stained, shaded, dented, bent, or gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stlm_core.synthesis.blend import pseudo_anomaly
from stlm_core.synthesis.shapes import (
    Image,
    Mask,
    Placed,
    draw_area,
    draw_bar,
    draw_blob,
    draw_centre,
    draw_curve,
    place,
)
from stlm_core.synthesis.textures import TextureSource, draw_texture, to_grey

Pixels = npt.NDArray[np.float32]
Made = tuple[Image, Mask]


@dataclass(frozen=True)
class Material:
    """What an anomaly is made from.

    ``donor``: a good image (S, S, 3) of the line, which may be the image itself; ``grey``: the line's pictures have no
    colour, so an anomaly must have none; the last three as in :func:`~stlm_core.synthesis.blend.pseudo_anomaly`.
    """

    textures: TextureSource
    donor: Image
    grey: bool
    beta_max: float = 0.8
    max_exponent: int = 5
    threshold: float = 0.5


Family = Callable[[Image, Material, np.random.Generator], "Made | None"]


def _perlin(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """The paper's: a texture in a Perlin mask over the whole image (section 3.1)."""
    return pseudo_anomaly(
        image,
        material.textures,
        rng,
        beta_max=material.beta_max,
        max_exponent=material.max_exponent,
        threshold=material.threshold,
    )


def _patch(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """Foreign matter: the paper's texture blend, in one blob."""
    side = image.shape[0]
    placed = _placed(image, draw_blob(side, rng), rng)
    if placed is None:
        return None
    y, x = np.mgrid[placed.rows, placed.columns]
    texture = draw_texture(material.textures, rng, side).at((y * side + x).ravel().astype(np.intp))
    texture = (to_grey(texture[:, None])[:, 0] if material.grey else texture).reshape(*y.shape, 3)
    beta = rng.uniform(0, material.beta_max)
    return _mixed(image, placed, beta * _window(image, placed) + (1 - beta) * texture, rng.uniform(0, 1.2))


def _paste(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """A piece of a good part in a wrong place, pose and light (after CutPaste, Li et al. 2021)."""
    side = image.shape[0]
    placed = _placed(image, draw_blob(side, rng) if rng.random() < 0.6 else draw_bar(side, rng), rng)
    if placed is None:
        return None
    x, y = draw_centre(material.donor, rng)
    height, width = placed.mask.shape
    pose = cv2.getRotationMatrix2D((x, y), rng.uniform(0, 360), np.exp(rng.uniform(-0.4, 0.4)))
    pose[:, 2] += [width / 2 - x, height / 2 - y]
    piece = cv2.warpAffine(material.donor, pose, (width, height), borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
    mean = piece.mean((0, 1))
    piece = (piece - mean) * rng.uniform(0.75, 1.25) + mean + rng.uniform(-20, 20)
    return _mixed(image, placed, piece, rng.uniform(0, 1.2))


def _scratch(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """A bent line, darker or lighter than the part."""
    side = image.shape[0]
    placed = _placed(image, draw_curve(side, rng), rng)
    if placed is None:
        return None
    change = rng.choice([-1, 1]) * rng.uniform(15, 110) * _tint(material, rng, 0.15)
    grain = rng.normal(0, 8, (*placed.mask.shape, 1))
    return _mixed(image, placed, _window(image, placed) + change + grain, rng.uniform(0.3, 1.0) * side / 256)


def _finish(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """A large area whose surface came out differently: brightness, contrast, and how much fine structure it shows."""
    side = image.shape[0]
    placed = _placed(image, draw_area(side, rng), rng)
    if placed is None:
        return None
    window = _window(image, placed)
    coarse = cv2.GaussianBlur(window, (0, 0), np.exp(rng.uniform(0, np.log(8))) * side / 256)
    mean = window[placed.mask].mean(0)
    fine = (window - coarse) * np.exp(rng.uniform(-1.5, 1.0))
    gain = np.exp(rng.normal(0, 0.25)) * _tint(material, rng, 0.1)
    changed = (mean + (coarse - mean) * np.exp(rng.normal(0, 0.3)) + fine) * gain + rng.uniform(-10, 10)
    return _mixed(image, placed, changed, np.exp(rng.uniform(np.log(0.3), np.log(8))) * side / 256)


def _stain(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """A blob that is darker, lighter or of another tint; the surface shows through."""
    side = image.shape[0]
    placed = _placed(image, draw_blob(side, rng, 5e-4, 8e-2), rng)
    if placed is None:
        return None
    gain = np.exp(rng.choice([-1, 1]) * rng.uniform(0.15, 0.8)) * _tint(material, rng, 0.25)
    stained = _window(image, placed) * gain + rng.uniform(-30, 30)
    return _mixed(image, placed, stained, rng.uniform(0.5, 3) * side / 256)


def _shade(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """Brightness that changes slowly over a large area; what is marked is where it changed by half the most."""
    side = image.shape[0]
    placed = _placed(image, draw_blob(side, rng, 3e-2, 3e-1), rng)
    if placed is None:
        return None
    sigma = float(np.sqrt(placed.mask.sum())) * rng.uniform(0.08, 0.25)
    blurred = cv2.GaussianBlur(placed.on(side).astype(np.float32), (0, 0), sigma)
    bell = blurred / max(float(blurred.max()), 1e-6)
    gain = np.exp(rng.choice([-1, 1]) * rng.uniform(0.15, 0.6))
    shaded = image * (1 + (gain - 1) * bell[..., None]) + rng.uniform(-12, 12) * bell[..., None]
    return _rounded(shaded), bell >= 0.5


def _dent(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """A bump or hollow: lit on one side, in shadow on the other."""
    side = image.shape[0]
    placed = _placed(image, draw_blob(side, rng, 5e-4, 1.5e-2), rng)
    if placed is None:
        return None
    height = np.sqrt(_depth(placed))
    height = cv2.GaussianBlur(height, (0, 0), max(0.5, side / 256))
    light = rng.uniform(0, 2 * np.pi)
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) * np.cos(light) + cv2.Sobel(height, cv2.CV_32F, 0, 1) * np.sin(light)
    steepest = float(np.abs(slope).max())
    if steepest == 0:
        return None
    shading = slope[..., None] / steepest * rng.uniform(20, 110)
    return _mixed(image, placed, _window(image, placed) + shading, rng.uniform(0, 1.0))


def _bend(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """The part's own structure pushed or twisted inside a blob."""
    side = image.shape[0]
    centre = draw_centre(image, rng)
    placed = place(draw_blob(side, rng, 1e-3, 2e-2), centre, side)
    if placed is None:
        return None
    radius = float(cv2.distanceTransform(np.pad(placed.mask, 1).astype(np.uint8), cv2.DIST_L2, 3).max())
    pull = _depth(placed)
    y, x = np.mgrid[placed.rows, placed.columns].astype(np.float32)
    if rng.random() < 0.6:
        direction, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.6, 1.6)
        from_x, from_y = x + pull * reach * np.cos(direction), y + pull * reach * np.sin(direction)
    else:
        turn = pull * rng.choice([-1, 1]) * rng.uniform(0.4, 1.6)
        right, down = x - centre[0], y - centre[1]
        from_x = centre[0] + right * np.cos(turn) - down * np.sin(turn)
        from_y = centre[1] + right * np.sin(turn) + down * np.cos(turn)
    bent = cv2.remap(
        image,
        from_x.astype(np.float32),
        from_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return _mixed(image, placed, bent.astype(np.float32), 0.0)


def _gap(image: Image, material: Material, rng: np.random.Generator) -> Made | None:
    """Structure gone: filled in from around the blob, or with one colour of its surroundings."""
    placed = _placed(image, draw_blob(image.shape[0], rng, 3e-4, 1.5e-2), rng)
    if placed is None or placed.mask.all():
        return None
    mask, window = placed.mask.astype(np.uint8), image[placed.rows, placed.columns]
    if rng.random() < 0.5:
        return _mixed(image, placed, cv2.inpaint(window, mask, 3, cv2.INPAINT_TELEA).astype(np.float32), 0.0)
    around = window[(cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0) & ~placed.mask]
    filled = around[int(rng.integers(len(around)))] + rng.normal(0, 4, (*mask.shape, 1))
    return _mixed(image, placed, np.asarray(filled, np.float32), 0.0)


FAMILIES: dict[str, Family] = {
    "perlin": _perlin,
    "patch": _patch,
    "paste": _paste,
    "scratch": _scratch,
    "stain": _stain,
    "shade": _shade,
    "dent": _dent,
    "bend": _bend,
    "gap": _gap,
    "finish": _finish,
}


def _placed(image: Image, outline: Mask, rng: np.random.Generator) -> Placed | None:
    return place(outline, draw_centre(image, rng), image.shape[0])


def _window(image: Image, placed: Placed) -> Pixels:
    return image[placed.rows, placed.columns].astype(np.float32)


def _depth(placed: Placed) -> Pixels:
    """Distance to the outline over the largest, (h, w) in [0, 1]."""
    depth = cv2.distanceTransform(np.pad(placed.mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(depth / depth.max(), np.float32)


def _tint(material: Material, rng: np.random.Generator, spread: float) -> Pixels:
    """Factors of the three channels; none on a grey line, nor on two of five others."""
    if material.grey or rng.random() < 0.4:
        return np.ones(3, np.float32)
    return np.exp(rng.normal(0, spread, 3)).astype(np.float32)


def _mixed(image: Image, placed: Placed, changed: npt.NDArray[np.floating], sigma: float) -> Made:
    """``image`` with the window's new pixels ``changed`` (h, w, 3) inside the outline, edges softened by ``sigma``."""
    weights = placed.softened(sigma)
    made = image.copy()
    made[placed.rows, placed.columns] = _rounded(_window(image, placed) * (1 - weights) + changed * weights)
    return made, placed.on(image.shape[0])


def _rounded(pixels: npt.NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)
