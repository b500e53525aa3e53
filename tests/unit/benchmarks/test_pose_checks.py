"""Poses are looked for in photographs as the product looks at them: in their own proportions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stlm_core.synthesis.rotation import rotate


def wide_line(folder: Path, turn: float) -> Path:
    """Brackets, each turned by up to ``turn`` degrees, in photographs of 2:1."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(40):
        image = np.full((96, 96, 3), 60, np.uint8)
        cv2.rectangle(image, (28, 22), (42, 74), (170, 170, 170), -1)
        cv2.rectangle(image, (28, 62), (66, 74), (170, 170, 170), -1)
        part = rotate(image, float(rng.uniform(-turn, turn)))
        photograph = np.pad(part, ((0, 0), (48, 48), (0, 0)), constant_values=60)
        Image.fromarray(photograph).save(folder / f"{number:02}.png")
    return folder


def test_parts_in_wide_photographs(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))  # it is a script
    from pose_checks import of_line

    assert of_line(wide_line(tmp_path / "anyhow", 180.0))["as they are"].policy == "any"
    aligned = of_line(wide_line(tmp_path / "aligned", 0.0))
    assert {how: aligned[how].policy for how in ("as they are", "up to 10 degrees", "by quarters", "at random")} == {
        "as they are": "none",
        "up to 10 degrees": "none",
        "by quarters": "quarter",
        "at random": "any",
    }
