"""A small line of part-like photographs, written as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stlm_core.files import sha256_file
from stlm_core.synthesis.plan import SourceImage


def part_image(seed: int, side: int = 96, *, grey: bool = False) -> np.ndarray:
    """A disc with rings on a light ground, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), rng.integers(200, 230), np.uint8)
    centre = (side // 2 + int(rng.integers(-3, 4)), side // 2 + int(rng.integers(-3, 4)))
    for radius in (0.4, 0.3, 0.2):
        shade = int(rng.integers(40, 120))
        colour = (shade,) * 3 if grey else (shade, shade // 2, shade // 3)
        cv2.circle(image, centre, int(radius * side), colour, -1)
    noise = rng.normal(0, 3, (side, side, 1))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def pointing_part() -> np.ndarray:
    """The first part with a pointer at its top: no turn but a whole one brings it onto itself."""
    image = part_image(0)
    image[10:40, 44:52] = 20
    return image


@pytest.fixture
def line(tmp_path: Path) -> tuple[Path, list[SourceImage]]:
    """(data root, its six good images: four of train, two of validation)."""
    root = tmp_path / "line"
    (root / "train" / "good").mkdir(parents=True)
    sources = []
    for number in range(6):
        path = root / "train" / "good" / f"{number:03}.png"
        Image.fromarray(part_image(number)).save(path)
        split = "validation" if number >= 4 else "train"
        sources.append(SourceImage(path.relative_to(root).as_posix(), sha256_file(path), split))
    return root, sources
