"""Pseudo anomalies in the straightforward way: numpy over whole images, Pillow for rotations, SciPy for regions.

The same method and the same draws in the same order as :mod:`stlm_core.synthesis`, so that both make the same images:
what the benchmark measures against, and what a test compares pixels with. Only the textures are the package's.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from stlm_core.synthesis.textures import TextureSource

Pixels = NDArray[np.uint8]


def plain_anomaly(
    clean: Pixels,
    textures: TextureSource,
    rng: np.random.Generator,
    *,
    beta_max: float = 0.8,
    max_exponent: int = 5,
    threshold: float = 0.5,
) -> tuple[Pixels, NDArray[np.bool_]]:
    """A pseudo-anomalous image (S, S, 3) and its mask (S, S); loops until something is visible."""
    grey = bool((clean == clean[..., :1]).all())
    while True:
        mask = plain_mask(rng, clean.shape[0], max_exponent, threshold)
        texture = plain_texture(textures, rng, clean.shape[0])
        if grey:
            texture = luminance(texture)
        image, kept = plain_blend(clean, texture, mask, rng.uniform(0, beta_max))
        if kept.mean() >= 0.001:
            return image, kept


def plain_mask(rng: np.random.Generator, side: int, max_exponent: int, threshold: float) -> NDArray[np.bool_]:
    """Rotated noise above ``threshold``, (S, S), drawn until it covers 0.1 to 70 % of the image."""
    while True:
        cells_y, cells_x = (int(2**exponent) for exponent in rng.integers(0, max_exponent + 1, size=2))
        noise = plain_noise(rng, side, cells_y, cells_x)
        margin = int(np.ceil(0.21 * side)) + 2  # half of what the diagonal is longer; Pillow cannot reflect
        padded = Image.fromarray(np.pad(noise, margin, mode="reflect").astype(np.float32))
        turned = np.asarray(padded.rotate(rng.uniform(-90, 90), resample=Image.Resampling.BILINEAR))
        mask = turned[margin : margin + side, margin : margin + side] > threshold
        if 0.001 <= mask.mean() <= 0.7:
            return mask


def plain_noise(rng: np.random.Generator, side: int, cells_y: int, cells_x: int) -> NDArray[np.float64]:
    """Perlin noise (S, S): every corner's gradient spread to the whole image, dot product, fade."""
    angle = rng.uniform(0, 2 * np.pi, size=(cells_y + 1, cells_x + 1))
    gradients = np.stack((np.sin(angle), np.cos(angle)), axis=-1)
    at = np.stack(np.meshgrid(*((np.arange(side) + 0.5) * cells / side for cells in (cells_y, cells_x)), indexing="ij"))
    cell = at.astype(int)
    offset = (at - cell).transpose(1, 2, 0)  # (S, S, 2)

    def corner(y: int, x: int) -> NDArray[np.float64]:
        return ((offset - np.array([y, x])) * gradients[cell[0] + y, cell[1] + x]).sum(axis=-1)

    fade = 6 * offset**5 - 15 * offset**4 + 10 * offset**3
    top = corner(0, 0) + fade[..., 1] * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade[..., 1] * (corner(1, 1) - corner(1, 0))
    return np.sqrt(2) * (top + fade[..., 0] * (bottom - top))


def plain_texture(textures: TextureSource, rng: np.random.Generator, side: int) -> Pixels:
    """A random texture in a random pose and random colours, (S, S, 3)."""
    texture = textures.texture(int(rng.integers(len(textures))))
    height, width = texture.shape[:2]
    scale = side / min(height, width) / rng.uniform(0.6, 1.4)
    angle = np.deg2rad(rng.uniform(-45, 45))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    pose = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    pose[:2, 2] = side / 2 - pose[:2, :2] @ (width / 2, height / 2) + rng.uniform(-0.25, 0.25, 2) * side
    if rng.random() < 0.5:
        pose[0] = [0, 0, side] - pose[0]
    return plain_colours(warp(texture, np.linalg.inv(pose)[:2], side), rng)


def warp(texture: Pixels, back: NDArray[np.float64], side: int) -> Pixels:
    """``texture`` at the places ``back`` (2, 3) @ (x, y, 1), (S, S, 3); reflected where it ends."""
    corners = back @ np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]])
    before = np.maximum(np.ceil(-corners.min(axis=1)), 0).astype(int) + 2  # x, y
    after = np.maximum(np.ceil(corners.max(axis=1)) - texture.shape[1::-1], 0).astype(int) + 2
    padded = np.pad(texture, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="reflect")
    # Pillow's coordinates start at the corner of the first pixel, the pose's at its centre.
    places = np.column_stack([back[:, :2], back[:, 2] + before + 0.5 - back[:, :2].sum(axis=1) / 2])
    channels = [  # as floats, because Pillow cuts off the fractions of 8-bit results
        Image.fromarray(padded[..., channel].astype(np.float32)).transform(
            (side, side), Image.Transform.AFFINE, places.ravel().tolist(), Image.Resampling.BILINEAR
        )
        for channel in range(3)
    ]
    return np.rint(np.stack([np.asarray(channel) for channel in channels], axis=-1)).astype(np.uint8)


def plain_colours(texture: Pixels, rng: np.random.Generator) -> Pixels:
    """Random gamma, contrast, brightness, inversion and tint, computed for every pixel."""
    if rng.random() < 0.25:
        texture = luminance(texture)
    level = (texture / 255) ** np.exp(rng.uniform(-0.5, 0.5))
    level = (level - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.2, 0.2)
    if rng.random() < 0.2:
        level = 1 - level
    return np.rint(np.clip(level * rng.uniform(0.8, 1.2, size=3), 0, 1) * 255).astype(np.uint8)


def luminance(texture: Pixels) -> Pixels:
    """All channels at the luminance (ITU-R 601)."""
    grey = np.rint(texture @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def plain_blend(
    image: Pixels, texture: Pixels, mask: NDArray[np.bool_], beta: float
) -> tuple[Pixels, NDArray[np.bool_]]:
    """The mixture inside those regions of ``mask`` that change by 3 grey levels in the mean, and these regions."""
    mixed = np.rint(beta * image + (1 - beta) * texture)
    change = np.abs(mixed - image).max(axis=-1)
    labels, count = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
    visible = np.append(False, scipy.ndimage.mean(change, labels, np.arange(1, count + 1)) >= 3)
    kept = visible[labels]
    return np.where(kept[..., None], mixed, image).astype(np.uint8), kept
