"""Speed and memory of reading a line's images, by their number, and the cost beside a bare decoder.

    python benchmarks/manifest_speed.py [--images 1000 10000 100000] [--side 64] [--scratch FOLDER]
                                        [--folder LINE ...] [--rounds 5] [--json FILE]

First part: lines of generated images (half PNG, half JPEG, one in 50 anomalous with a mask) are inspected and their
manifest is written, each time in a process of its own: first with nothing remembered, then with all of it remembered.
The files were just written, so that the disk is not part of it; on a busy machine the processor time tells more than
the seconds. Second part: on images of real lines in MVTec layout, the processor time of the whole inspection against
that of reading, decoding with Pillow and sha256 alone, image by image in turn.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import yaml
from PIL import Image, PngImagePlugin

from stlm_core.config import LineConfig, load_line
from stlm_core.data.facts import FactStore
from stlm_core.data.images import IMAGE_SUFFIXES
from stlm_core.data.inspection import inspect_line
from stlm_core.data.manifest import manifest_of
from stlm_core.files import sha256_bytes
from stlm_core.steps.contract import peak_memory_mib

CONTENTS = 300
RUNS = ("new", "unchanged")
SETTLED = 2.5  # seconds until the store believes the time of a file


def line_config(folder: Path, images: Path) -> LineConfig:
    """A line with its images at ``images`` and its memory in ``folder``."""
    params = folder / "params.yaml"
    line = {"data": {"path": str(images)}}
    params.write_text(yaml.safe_dump({"defaults": {}, "profiles": {"fast": {}}, "lines": {"line": line}}))
    return load_line(params, "line")


def generate(folder: Path, count: int, side: int) -> None:
    """``count`` images with bytes of their own, made from a few hundred contents."""
    rng = np.random.default_rng(0)
    contents = []
    for number in range(CONTENTS):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG" if number % 2 else "JPEG", quality=90)
        contents.append(buffer.getvalue())
    mask = io.BytesIO()
    Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), (0, side - 8))).save(mask, "PNG")
    for name in ("train/good", "test/dent", "ground_truth/dent"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        content = contents[number % CONTENTS]
        png = number % CONTENTS % 2 == 1
        anomalous = number % 50 == 49
        stem = f"{'test/dent' if anomalous else 'train/good'}/{number:06d}"
        (folder / f"{stem}.{'png' if png else 'jpg'}").write_bytes(numbered(content, number, png=png))
        if anomalous:
            (folder / f"ground_truth/dent/{number:06d}_mask.png").write_bytes(
                numbered(mask.getvalue(), number, png=True)
            )


def numbered(content: bytes, number: int, *, png: bool) -> bytes:
    """The same image with ``number`` in a comment."""
    if not png:
        return content[:2] + b"\xff\xfe\x00\x0a" + f"{number:08d}".encode() + content[2:]
    comment = io.BytesIO()
    PngImagePlugin.putchunk(comment, b"tEXt", f"Comment\0{number:08d}".encode())
    return content[:33] + comment.getvalue() + content[33:]  # after the header chunk


def inspect_once(folder: Path) -> dict[str, float]:
    """Inspect the line of ``folder`` and write its manifest; seconds and MiB of this process."""
    config = load_line(folder / "params.yaml", "line")
    before = peak_memory_mib()
    began, cpu_began = time.perf_counter(), time.process_time()
    inspection = inspect_line(config)
    inspected, cpu_inspected = time.perf_counter(), time.process_time()
    manifest_of(inspection).write(folder / "manifest.parquet")
    return {
        "inspect_seconds": inspected - began,
        "inspect_cpu_seconds": cpu_inspected - cpu_began,
        "manifest_seconds": time.perf_counter() - inspected,
        "start_mib": before,
        "peak_mib": peak_memory_mib(),
    }


def in_a_process(folder: Path) -> dict[str, float]:
    """:func:`inspect_once` in a process of its own."""
    command = [sys.executable, __file__, "--inspect", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def measure_scale(count: int, side: int, scratch: Path | None) -> dict[str, Any]:
    """First part for one number of images: a first run and one on unchanged files."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="manifest-speed-") as name:
        folder = Path(name)
        generate(folder / "images", count, side)
        line_config(folder, folder / "images")
        time.sleep(SETTLED)
        runs = {run: in_a_process(folder) for run in RUNS}
        manifest_bytes = (folder / "manifest.parquet").stat().st_size
    for run, figures in runs.items():
        seconds, cpu = figures["inspect_seconds"], figures["inspect_cpu_seconds"]
        print(
            f"{count:>10}{run:>12}{seconds:>10.2f}{cpu:>10.2f}{count / seconds:>12.0f}"
            f"{figures['manifest_seconds']:>12.2f}{figures['peak_mib']:>10.0f}"
        )
    return {"images": count, **runs, "manifest_bytes": manifest_bytes}


def bytes_an_image(scale: list[dict[str, Any]]) -> dict[str, float]:
    """How peak memory grows from the smallest to the largest line, bytes for every further image."""
    first, last = scale[0], scale[-1]
    more = last["images"] - first["images"]
    return {run: (last[run]["peak_mib"] - first[run]["peak_mib"]) * 2**20 / more for run in RUNS}


def measure_folder(folder: Path, rounds: int) -> dict[str, Any]:
    """Second part for one line: medians over ``rounds`` of processor seconds an image, single-threaded."""
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in (folder / "train" / "good").iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
    )[:100]
    cv2.setNumThreads(1)
    bare, whole = [], []
    for _ in range(rounds + 1):
        store = FactStore(folder)
        spent = [0.0, 0.0]
        for name in files:
            began = time.process_time()
            content = (folder / name).read_bytes()
            sha256_bytes(content)
            Image.open(io.BytesIO(content)).load()
            between = time.process_time()
            store.image(name)
            spent[0] += between - began
            spent[1] += time.process_time() - between
        bare.append(spent[0] / len(files))
        whole.append(spent[1] / len(files))
    ratios = [ours / theirs for ours, theirs in zip(whole[1:], bare[1:], strict=True)]
    with Image.open(folder / files[0]) as first:
        width, height = first.size
    return {
        "folder": folder.name,
        "width": width,
        "height": height,
        "bare_ms": 1000 * float(np.median(bare[1:])),
        "inspection_ms": 1000 * float(np.median(whole[1:])),
        "ratio": float(np.median(ratios)),
    }


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="sizes of the lines")
    parser.add_argument("--side", type=int, default=64, help="side of the generated images, pixels")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the generated images")
    parser.add_argument("--folder", type=Path, nargs="*", default=[], help="real lines in MVTec layout")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over 100 images of every real line")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    parser.add_argument("--inspect", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inspect is not None:
        print(json.dumps(inspect_once(arguments.inspect)))
        return
    scale = []
    if arguments.images:
        heads = f"{'seconds':>10}{'cpu s':>10}{'images/s':>12}{'manifest s':>12}{'peak MiB':>10}"
        print(f"{'images':>10}{'':>12}{heads}")
        scale = [measure_scale(count, arguments.side, arguments.scratch) for count in sorted(arguments.images)]
    slopes = bytes_an_image(scale) if len(scale) > 1 else {}
    for run, slope in slopes.items():
        print(f"memory, {run}: {slope:.0f} bytes an image")
    folders = []
    if arguments.folder:
        print(f"{'line':<20}{'pixels':>12}{'bare ms':>10}{'whole ms':>10}{'ratio':>8}")
    for folder in arguments.folder:
        entry = measure_folder(folder, arguments.rounds)
        folders.append(entry)
        size = f"{entry['width']} x {entry['height']}"
        print(
            f"{entry['folder']:<20}{size:>12}{entry['bare_ms']:>10.3f}{entry['inspection_ms']:>10.3f}{entry['ratio']:>8.2f}"
        )
    if arguments.json is not None:
        facts = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "side": arguments.side,
            "pillow": PIL.__version__,
            "opencv": cv2.__version__,
        }
        figures = {"lines": scale, "bytes_an_image": slopes, "folders": folders}
        arguments.json.write_text(json.dumps({**facts, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
