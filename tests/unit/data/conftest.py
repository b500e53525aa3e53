"""Small real image folders, made by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stlm_core.config import LineConfig, load_line
from stlm_core.data.sample_line import write_sample_line


def noise(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """An RGB image that differs from that of every other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    """Save ``image``, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def line_folder(tmp_path: Path) -> Path:
    """A valid line in MVTec layout: 24 good training images, 3 good and 3 anomalous test images."""
    root = tmp_path / "line"
    for index in range(24):
        save(noise(index), root / "train" / "good" / f"{index:03d}.png")
    for index in range(3):
        save(noise(100 + index), root / "test" / "good" / f"{index:03d}.png")
        save(noise(200 + index), root / "test" / "dent" / f"{index:03d}.png")
        mask = np.zeros((40, 48), np.uint8)
        mask[5:9, 5:9] = 255
        save(Image.fromarray(mask), root / "ground_truth" / "dent" / f"{index:03d}_mask.png")
    return root


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., LineConfig]:
    """Configuration of a line whose images lie in the given folder; keywords are ``data`` settings."""

    def make(folder: Path, validate: dict[str, Any] | None = None, **data: Any) -> LineConfig:
        import yaml

        params = tmp_path / "params.yaml"
        line = {"data": {"path": str(folder), **data}, "validate": validate or {}}
        params.write_text(yaml.safe_dump({"defaults": {}, "profiles": {"fast": {}}, "lines": {"line": line}}))
        return load_line(params, "line")

    return make


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample line, smaller: 30 training images, 4 good and 14 defective test images."""
    folder = tmp_path_factory.mktemp("sample") / "sample"
    write_sample_line(folder, 0, train_good=30, test_good=4, per_defect=2)
    return folder
