"""What a user would take instead of the pipeline, on the same images and with the same metrics."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.accuracy.figures import image_figures, pixel_figures
from benchmarks.accuracy.lines import Line, validated
from stlm_core.data.images import read_image, read_mask, resize_to
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.errors import UserError
from stlm_core.files import exclusive_lock, write_json_atomic
from stlm_core.models.detector import upsample
from stlm_core.steps.contract import peak_memory_mib

SIZE = 256
BASELINES = ("pixel-statistics", "patchcore", "padim")
_PEERS = Path(__file__).with_name("peers.py")
_LARGEST = 100  # pixels of the map whose mean is the score, as in the pipeline
_FLOOR = 1.0  # grey levels; a deviation of 0 would make any change infinitely unlikely
_PREPARED = "prepared.json"

Maps = npt.NDArray[np.float32]


def run_baseline(project: Path, line: Line, name: str, seed: int, peers: Path | None) -> dict[str, Any]:
    """Fit on all good images that are not for the test, look at the test images, and measure.

    ``peers``: the interpreter of the environment of ``peers.txt``, which all but ``pixel-statistics`` need.

    Raises:
        UserError: it is needed and missing.
    """
    folder = project / "baselines" / line.name
    with exclusive_lock(folder.with_suffix(".lock"), notice=f"{line.name}: waiting for another baseline"):
        return _measured(folder, validated(project, line), name, seed, peers)


def _measured(folder: Path, manifest: Manifest, name: str, seed: int, peers: Path | None) -> dict[str, Any]:
    _prepare(folder, manifest)
    if name == "pixel-statistics":
        scores, maps, facts = _pixel_statistics(folder)
    else:
        if peers is None:
            raise UserError(f"{name} needs --peers-python, an interpreter with the packages of peers.txt")
        subprocess.run([str(peers), str(_PEERS), name, str(folder), "--seed", str(seed)], check=True)
        scores, maps = np.load(folder / "scores.npy"), np.load(folder / "maps.npy")
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    rows = manifest.test()
    # A map must lie in [0, 1]; shifting and scaling all maps alike changes no ranking.
    low, high = float(maps.min()), float(maps.max())
    scaled = ((maps - low) / max(high - low, 1e-12)).astype(np.float32)
    figures = image_figures([row.label for row in rows], scores)
    return {"test": {**figures, **pixel_figures(_with_masks(manifest, rows, scaled))}, **facts}


def _prepare(folder: Path, manifest: Manifest) -> None:
    """``fit.npy`` and ``test.npy``: the images at network size, resized as the pipeline resizes them."""
    wanted = {"manifest": manifest.digest(), "size": SIZE}
    done = folder / _PREPARED
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    fit = [row for row in manifest.rows if row.split != "test"]
    for file, rows in (("fit.npy", fit), ("test.npy", manifest.test())):
        np.save(folder / file, np.stack([resize_to(read_image(manifest.image_path(row)), SIZE) for row in rows]))
    write_json_atomic(done, wanted)


def _pixel_statistics(folder: Path) -> tuple[Maps, Maps, dict[str, Any]]:
    """Each pixel against its own mean and deviation over the good images, the mean over the three channels."""
    began = time.perf_counter()
    total = np.zeros((SIZE, SIZE, 3))
    squares = np.zeros((SIZE, SIZE, 3))
    images = np.load(folder / "fit.npy", mmap_mode="r")
    for image in images:
        total += image
        squares += image.astype(np.float64) ** 2
    mean = total / len(images)
    deviation = np.sqrt(np.maximum(squares / len(images) - mean**2, 0)) + _FLOOR
    fitted = time.perf_counter()
    test = np.load(folder / "test.npy", mmap_mode="r")
    maps = np.stack([(np.abs(image - mean) / deviation).mean(2) for image in test]).astype(np.float32)
    scores = np.sort(maps.reshape(len(maps), -1), axis=1)[:, -_LARGEST:].mean(1)
    facts = {
        "fit_seconds": round(fitted - began, 1),
        "ms_per_image": round(1000 * (time.perf_counter() - fitted) / len(test), 1),
        "peak_memory_mib": peak_memory_mib(),
        "device": "cpu",
        "versions": {"numpy": np.__version__},
    }
    return scores, maps, facts


def _with_masks(
    manifest: Manifest, rows: Sequence[ManifestRow], maps: Maps
) -> Iterator[tuple[Maps, npt.NDArray[np.bool_] | None]]:
    """Maps brought to their images' own size, with masks; defective images without a mask are passed over."""
    for row, small in zip(rows, maps, strict=True):
        path = manifest.mask_path(row)
        if row.label and path is None:
            continue
        size = (row.height, row.width)
        mask = read_mask(path, size) if row.label and path is not None else None
        large = upsample(torch.from_numpy(small)[None, None], size)[0, 0].numpy()
        yield np.clip(large, 0, 1), mask  # interpolation rounds
