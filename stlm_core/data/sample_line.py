"""The sample line: a procedural, seeded inspection data set in MVTec layout. No binary data is shipped."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stlm_core.data.sample_defects import DEFECT_TYPES, MASK_LEVELS, apply_defect
from stlm_core.data.sample_scene import SIDE, Damage, expose, make_part, photograph, render
from stlm_core.errors import UserError
from stlm_core.files import write_json_atomic
from stlm_core.progress import track
from stlm_core.seeding import derive_rng

FACTS = "sample.json"


@dataclass(frozen=True, slots=True)
class SampleLine:
    """What was written: numbers of images and the seed that makes the same ones again."""

    seed: int
    train_good: int
    test_good: int
    test_defects: int
    defect_types: tuple[str, ...]


def write_sample_line(
    folder: Path, seed: int = 0, *, train_good: int = 120, test_good: int = 20, per_defect: int = 6
) -> SampleLine:
    """Write the sample line to ``folder``: 320 x 320 RGB PNG, seven defect types, masks of 0 and 255.

    The pixels depend on ``seed`` alone: every image has its own random stream, named by its place, so numbers of
    images and order of work change nothing. The folder appears when it is whole; an earlier sample line there is
    replaced.

    Raises:
        UserError: ``folder`` holds something that is not a sample line, or cannot be written.
    """
    if folder.is_symlink() or (folder.exists() and not _replaceable(folder)):
        raise UserError(f"{folder}: already there and not a sample line; choose another folder with --out")
    line = SampleLine(seed, train_good, test_good, per_defect * len(DEFECT_TYPES), DEFECT_TYPES)
    jobs = [("train", "good", index) for index in range(train_good)]
    jobs += [("test", "good", index) for index in range(test_good)]
    jobs += [("test", kind, index) for kind in DEFECT_TYPES for index in range(per_defect)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".sample-line.", suffix=".tmp") as name:
            partial = Path(name) / "line"
            _run(lambda job: _write_one(partial, seed, *job), jobs)
            write_json_atomic(
                partial / FACTS,
                {**asdict(line), "side": SIDE, "mask_levels": MASK_LEVELS, "license": "CC0-1.0"},
            )
            if folder.exists():
                shutil.rmtree(folder)
            os.rename(partial, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return line


def good_image(seed: int, *name: str | int) -> NDArray[np.uint8]:
    """uint8 (320, 320, 3) RGB of an undamaged part; ``name`` picks the part."""
    part = make_part(derive_rng(seed, "part", *name))
    return expose(photograph(render(part, Damage()), part), derive_rng(seed, "grain", *name))


def defective_image(kind: str, seed: int, *name: str | int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """As :func:`good_image` for the same ``name`` (part, pose, light and grain) with a defect; and its mask.

    The mask is bool (320, 320): where the defect changed any channel by more than 3 of 255 levels before grain.
    """
    part = make_part(derive_rng(seed, "part", *name))
    photo, mask = apply_defect(kind, part, derive_rng(seed, "defect", kind, *name))
    return expose(photo, derive_rng(seed, "grain", *name)), mask


def _write_one(root: Path, seed: int, split: str, kind: str, index: int) -> None:
    name = f"{index:03d}"
    if kind == "good":
        _write_png(root / split / kind / f"{name}.png", good_image(seed, split, kind, index))
        return
    image, mask = defective_image(kind, seed, split, kind, index)
    _write_png(root / split / kind / f"{name}.png", image)
    _write_png(root / "ground_truth" / kind / f"{name}_mask.png", mask.astype(np.uint8) * 255)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=4)


def _run(work: Callable[[tuple[str, str, int]], None], jobs: list[tuple[str, str, int]]) -> None:
    """Do all jobs on all cores; numpy and OpenCV release the interpreter lock."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in track(pool.map(work, jobs), "sample line", len(jobs)):
            pass


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / FACTS).is_file() or not any(folder.iterdir()))
