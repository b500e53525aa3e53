"""A line of smooth, dark surfaces, on which rounding to whole levels shows (docs/decisions/0028).

``python -m benchmarks.smooth_line FOLDER`` writes it in MVTec's layout, for
``python -m benchmarks.accuracy run RESULTS --line smooth=FOLDER``. Every image is a slope of light over 1024 x 1024
pixels, from some 20 to 27 levels, with a camera's noise of 1.5 levels, which shrinking to the network's size takes
away, and the brighter table at both sides; the defects are thin scratches, a few levels brighter or darker.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

SIDE = 1024
_DARK, _RISE, _TABLE, _NOISE = 20.0, 7.0, 60.0, 1.5  # levels
_SETS = (("train/good", 60), ("test/good", 24), ("test/scratch", 32))


def surface(rng: np.random.Generator, side: int = SIDE) -> npt.NDArray[np.float32]:
    """A surface before the camera's noise, levels (side, side): a slope, a little different in every image."""
    down, right = np.mgrid[0:side, 0:side].astype(np.float32) / side
    angle = rng.normal(0.0, 0.15)
    along = np.cos(angle) * right + np.sin(angle) * down
    levels = np.asarray(_DARK + rng.normal(0.0, 0.5) + _RISE * rng.uniform(0.9, 1.1) * along, np.float32)
    edge = round((0.06 + rng.normal(0, 0.004)) * side)
    levels[:, :edge] = levels[:, -edge:] = _TABLE
    return levels


def scratch(rng: np.random.Generator, side: int = SIDE) -> npt.NDArray[np.bool_]:
    """The pixels (side, side) of one thin, slightly bent scratch."""
    start, heading = rng.uniform(0.15, 0.85, 2) * side, rng.uniform(0, 2 * np.pi)
    points, bend = [start], rng.normal(0, 0.05)
    for _ in range(int(rng.integers(6, 16))):
        heading += bend
        points.append(points[-1] + 0.01 * side * np.array([np.cos(heading), np.sin(heading)]))
    drawn = np.zeros((side, side), np.uint8)
    cv2.polylines(drawn, [np.rint(points).astype(np.int32)], False, 1, thickness=int(rng.integers(3, 7)))
    return drawn.view(np.bool_)


def write(folder: Path, seed: int = 0) -> None:
    """Write the line to ``folder``: ``train/good``, ``test/good``, ``test/scratch`` and ``ground_truth/scratch``."""
    rng = np.random.default_rng(seed)
    for name, count in _SETS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            levels = surface(rng)
            if name == "test/scratch":
                mask = scratch(rng)
                levels = levels + mask * np.float32(rng.choice((-1, 1)) * rng.uniform(2, 5))
                truth = folder / "ground_truth" / "scratch"
                truth.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(truth / f"{number:03}_mask.png"), mask.astype(np.uint8) * 255)
            seen = levels[..., None] + rng.normal(0.0, _NOISE, (*levels.shape, 3))
            cv2.imwrite(str(folder / name / f"{number:03}.png"), np.clip(np.rint(seen), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    write(chosen.folder, chosen.seed)
