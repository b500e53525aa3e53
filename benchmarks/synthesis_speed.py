"""Speed of pseudo-anomaly synthesis on one core, against a straightforward implementation.

    python benchmarks/synthesis_speed.py [--size 256] [--images 300] [--textures FOLDER] [--json FILE]

Reference: Perlin noise with whole-image arrays per corner, rotation by Pillow, blending by numpy, as published code
of this kind does it; without its colour augmentation, so that it does less work per image than ours. Both read the
same textures and one clean image from memory; the time of decoding images is not in it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from stlm_core.synthesis.blend import pseudo_anomaly
from stlm_core.synthesis.textures import TextureSource, open_textures


def reference_noise(rng: np.random.Generator, side: int, cells_y: int, cells_x: int) -> np.ndarray:
    """Perlin noise (side, side): every corner's gradient repeated to image size, then dot product and fade."""
    grid = np.mgrid[0 : cells_y : cells_y / side, 0 : cells_x : cells_x / side].transpose(1, 2, 0) % 1
    angles = 2 * np.pi * rng.random((cells_y + 1, cells_x + 1))
    gradients = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
    tile_y, tile_x = side // cells_y, side // cells_x

    def corner(y: int, x: int) -> np.ndarray:
        part = gradients[y : y + cells_y, x : x + cells_x]
        spread = np.repeat(np.repeat(part, tile_y, axis=0), tile_x, axis=1)
        return ((grid - np.array([y, x])) * spread).sum(axis=-1)

    fade = 6 * grid**5 - 15 * grid**4 + 10 * grid**3
    top = corner(0, 0) + fade[..., 1] * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade[..., 1] * (corner(1, 1) - corner(1, 0))
    return np.sqrt(2) * (top + fade[..., 0] * (bottom - top))


def reference_anomaly(clean: np.ndarray, textures: TextureSource, rng: np.random.Generator) -> np.ndarray:
    """One pseudo-anomalous image, uint8 (S, S, 3)."""
    side = clean.shape[0]
    cells_y, cells_x = (int(2**exponent) for exponent in rng.integers(0, 6, 2))
    noise = Image.fromarray(reference_noise(rng, side, cells_y, cells_x).astype(np.float32))
    turned = noise.rotate(rng.uniform(-90, 90), resample=Image.Resampling.BILINEAR)
    mask = (np.asarray(turned) > 0.5).astype(np.float32)[..., None]
    picture = Image.fromarray(textures.texture(int(rng.integers(len(textures)))))
    texture = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR), np.float32)
    image, beta = clean.astype(np.float32), rng.uniform(0, 0.8)
    mixed = image * (1 - mask) + mask * (beta * image + (1 - beta) * texture)
    return np.rint(mixed).astype(np.uint8)


def images_per_second(work: Callable[[np.random.Generator], object], images: int, rounds: int = 5) -> float:
    """Median rate of ``rounds`` times ``images`` calls, per second of processor time: a busy machine does not count."""
    rates = []
    for number in range(rounds + 1):
        rng = np.random.default_rng(number)
        began = time.process_time()
        for _ in range(images):
            work(rng)
        rates.append(images / (time.process_time() - began))
    return float(np.median(rates[1:]))


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the images, a multiple of 32")
    parser.add_argument("--images", type=int, default=300, help="images a round, five rounds")
    parser.add_argument("--textures", type=Path, default=None, help="folder of textures; default: the embedded set")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    arguments = parser.parse_args()

    cv2.setNumThreads(1)
    textures = open_textures(arguments.textures, arguments.size)
    for number in range(len(textures)):
        textures.texture(number)
    rows, columns = np.mgrid[0 : arguments.size, 0 : arguments.size] / arguments.size
    clean = np.rint(255 * np.stack([rows, columns, (rows + columns) / 2], axis=-1)).astype(np.uint8)
    figures = {
        "stlm": images_per_second(lambda rng: pseudo_anomaly(clean, textures, rng), arguments.images),
        "reference": images_per_second(lambda rng: reference_anomaly(clean, textures, rng), arguments.images),
    }
    print(f"{'':<12}{'images/s a core':>16}{'ms an image':>13}")
    for name, rate in figures.items():
        print(f"{name:<12}{rate:>16.1f}{1000 / rate:>13.2f}")
    print(f"{'ratio':<12}{figures['stlm'] / figures['reference']:>16.2f}")
    if arguments.json is not None:
        facts = {
            "size": arguments.size,
            "machine": platform.machine(),
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        }
        arguments.json.write_text(json.dumps({**facts, "images_per_second": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
