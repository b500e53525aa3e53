"""Speed of pseudo-anomaly synthesis on one core, against a straightforward implementation of the same method.

    python benchmarks/synthesis_speed.py [--sizes 256 512] [--images 30] [--turns 5] [--textures FOLDER] [--json FILE]

The reference (``plain_synthesis.py``: numpy over whole images, Pillow for rotations, SciPy for regions) draws the same
numbers in the same order, so that both make the same images; how far their pixels agree is counted first. Both read
the same textures and one clean image from memory: the time of decoding images is not in it. They take turns; rates are
those of the processor's time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measure import Timing, surroundings, take_turns, write_json
from numpy.typing import NDArray
from plain_synthesis import plain_anomaly

from stlm_core.synthesis.blend import pseudo_anomaly
from stlm_core.synthesis.textures import TextureSource, open_textures

Made = tuple[NDArray[np.uint8], NDArray[np.bool_]]
Maker = Callable[[NDArray[np.uint8], TextureSource, np.random.Generator], Made]
MAKERS: dict[str, Maker] = {"stlm": pseudo_anomaly, "reference": plain_anomaly}


def clean_image(side: int) -> NDArray[np.uint8]:
    """A colour ramp with a camera's noise, (side, side, 3)."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    ramp = 255 * np.stack([rows, columns, (rows + columns) / 2], axis=-1)
    return np.rint(np.clip(ramp + np.random.default_rng(0).normal(0, 4, ramp.shape), 0, 255)).astype(np.uint8)


def agreement(clean: NDArray[np.uint8], textures: TextureSource, images: int) -> dict[str, Any]:
    """How far the pixels of the two agree, over ``images`` images: in the masks, and inside both masks in levels."""
    masks_differ, inside, beyond, largest = 0, 0, 0, 0
    for seed in range(images):
        (ours, our_mask), (plain, plain_mask) = (
            make(clean, textures, np.random.default_rng(seed)) for make in MAKERS.values()
        )
        masks_differ += np.count_nonzero(our_mask != plain_mask)
        apart = np.abs(ours.astype(int) - plain).max(axis=-1)[our_mask & plain_mask]
        inside += len(apart)
        beyond += np.count_nonzero(apart > 1)
        largest = max(largest, int(apart.max(initial=0)))
    return {
        "images": images,
        "mask_pixels_agree": 1 - masks_differ / (images * clean.shape[0] ** 2),
        "pixels_in_both_masks": inside,
        "within_one_level": 1 - beyond / inside,
        "largest_difference": largest,
    }


def rates(clean: NDArray[np.uint8], textures: TextureSource, images: int, turns: int) -> dict[str, Timing]:
    """Milliseconds for ``images`` images, other ones in every turn but the same for both."""
    turn = dict.fromkeys(MAKERS, 0)

    def work(name: str) -> None:
        for number in range(images):
            MAKERS[name](clean, textures, np.random.default_rng([turn[name], number]))
        turn[name] += 1

    return take_turns({name: lambda name=name: work(name) for name in MAKERS}, turns)


def measure(size: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both contenders at one size, printed and as rows."""
    textures = open_textures(arguments.textures, size)
    for number in range(len(textures)):
        textures.texture(number)
    clean = clean_image(size)
    agree = agreement(clean, textures, 2 * arguments.images)
    print(
        f"{size} px: {agree['mask_pixels_agree']:.6%} of the mask's pixels agree, and inside both masks "
        f"{agree['within_one_level']:.4%} of {agree['pixels_in_both_masks']} pixels are within 1 level "
        f"(largest difference {agree['largest_difference']})"
    )
    timed = rates(clean, textures, arguments.images, arguments.turns)
    rows = []
    for name, timing in timed.items():
        rate, ratio = 1000 * arguments.images / timing.cpu, timed["reference"].cpu / timing.cpu
        print(f"{size:>6}{name:>12}{rate:>18.1f}{timing.cpu / arguments.images:>14.3f}{ratio:>12.1f}")
        found = {"size": size, "contender": name, "images_per_second_a_core": rate, "times_the_reference": ratio}
        rows.append({**found, "turns": timing.turns, "agreement": agree})
    return rows


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="sides of the images, pixels")
    parser.add_argument("--images", type=int, default=30, help="images a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--textures", type=Path, default=None, help="folder of textures; default: the embedded set")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{'side':>6}{'':>12}{'images/s a core':>18}{'ms an image':>14}{'times ref.':>12}")
    rows = [row for size in arguments.sizes for row in measure(size, arguments)]
    write_json(arguments.json, surroundings(1, ["numpy", "opencv-python-headless", "pillow", "scipy"]), rows)


if __name__ == "__main__":
    main()
