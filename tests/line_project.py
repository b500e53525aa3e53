"""A project folder and small datasets for the tests of ``stlm lines``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from stlm_core.config import LineConfig, load_line
from stlm_core.data.catalog import Catalog, open_catalog

PARAMS = """\
# All settings.
defaults:
  image: {size: 256}   # pixels
profiles:
  fast: {}
  gpu: {image: {size: 1024}}

lines:
  # The demo.
  sample:
    profile: fast
    data:
      path: 'data/sample'

  # Packaging hall.
  caps:
    profile: gpu   # big
    data: {path: caps}
"""


def photograph(path: Path, seed: int, *, side: int = 40) -> Path:
    """A PNG that differs from that of every other seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mvtec_dataset(root: Path, *, train: int = 6, seed: int = 0) -> Path:
    """``train`` good training images, two good and two defective test images with masks."""
    for index in range(train):
        photograph(root / "train" / "good" / f"{index:03d}.png", seed + index)
    for index in range(2):
        photograph(root / "test" / "good" / f"{index:03d}.png", seed + 1000 + index)
        photograph(root / "test" / "dent" / f"{index:03d}.png", seed + 2000 + index)
        mask = np.zeros((40, 40), np.uint8)
        mask[5:9, 5:9] = 255
        target = root / "ground_truth" / "dent" / f"{index:03d}_mask.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)
    return root


def catalog_of(params: Path, name: str) -> Catalog:
    """The line's catalogue, as every step reads it."""
    catalog = open_catalog(load_line(params, name))
    assert catalog is not None
    return catalog


def images_of(config: LineConfig) -> Path:
    """The folder of the line's images."""
    return config.resolve(config.data.path)


def content(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder`` by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def start_python(code: str, folder: Path) -> subprocess.Popen[str]:
    """A Python process in ``folder`` that runs ``code``."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_killed(call: str, module: str, name: str, nth: int, *, after: bool, folder: Path) -> None:
    """Run ``call`` in a process of its own that SIGKILL ends at the ``nth`` call of ``module.name``.

    ``name`` may be a method, ``Class.method``. ``after``: the call is completed first.
    """
    code = f"""
import importlib, os, signal
from pathlib import Path
holder = importlib.import_module({module!r})
*classes, name = {name!r}.split(".")
for part in classes:
    holder = getattr(holder, part)
original, calls = getattr(holder, name), []
def killing(*arguments, **options):
    calls.append(1)
    if len(calls) < {nth}:
        return original(*arguments, **options)
    if {after}:
        original(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(holder, name, killing)
{call}
"""
    process = start_python(code, folder)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output
