"""Speed, memory and agreement of the metrics beside scikit-learn, anomalib, adeval, pyaupro and torchmetrics.

    python benchmarks/metrics_speed.py [--peers-python PATH] [--images 100] [--side 512] [--json FILE]
    python benchmarks/metrics_speed.py --stream --images 1000 --side 1024 [--peers-python PATH]

Every contender sees the same seeded maps, on one thread, in a process of its own; the processes take turns. The peers
live in another environment (benchmarks/peers.txt); those that are not installed are shown as such. "Extra" is how much
the process grew at most beyond the maps and masks it was given. With --stream the maps are made one by one and
never in memory together, which only accumulators can do; "peak" is then all of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import surroundings, write_json
from metrics_contenders import make_map

ROOT = Path(__file__).resolve().parent
# What a contender is called in the table, and whether it is a peer's.
LINES = {
    "stlm": ("stlm, histograms", False),
    "stlm-exact": ("stlm, exact", False),
    "sorted": ("exact AUPRO, all scores sorted", False),
    "sklearn": ("scikit-learn, AUROC and AP", False),
    "anomalib": ("anomalib, AUPRO", True),
    "adeval": ("adeval, accumulator", True),
    "adeval-one-call": ("adeval, one call", True),
    "pyaupro": ("pyaupro, exact AUPRO", True),
    "torchmetrics": ("torchmetrics, exact AUROC and AP", True),
}
STREAMED = ("stlm", "adeval")
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro_30", "aupro_05")


def run(name: str, python: Path | None, arguments: list[str]) -> dict[str, Any] | None:
    """One turn of a contender in a process of its own; None where it is not installed."""
    if python is None:
        return None
    single = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    child = subprocess.run(
        [str(python), "-W", "ignore", str(ROOT / "metrics_contenders.py"), name, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **single, "PYTHONPATH": str(ROOT.parent)},
    )
    return json.loads(child.stdout.splitlines()[-1])


def best_of(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest turn's figures with the largest memory of all turns."""
    fastest = min(turns, key=lambda turn: turn["seconds"])
    memory = {key: max(turn[key] for turn in turns) for key in ("extra_mib", "peak_mib") if key in fastest}
    return {**fastest, **memory, "turns": len(turns)}


def write_maps(folder: Path, images: int, side: int) -> None:
    """maps.npy (images, side, side) float32 and masks.npy of the same shape, bool."""
    maps = np.lib.format.open_memmap(folder / "maps.npy", "w+", np.float32, (images, side, side))
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.bool_, (images, side, side))
    for number in range(images):
        maps[number], masks[number] = make_map(number, side)


def show(rows: list[dict[str, Any]]) -> None:
    """The table; how many times as long as this project's histograms a contender takes is in "ratio"."""
    base = next((row["seconds"] for row in rows if row["contender"] == "stlm"), None)
    names = "".join(f"{name:>12}" for name in METRICS)
    print(f"{'':34}{'s':>8}{'ratio':>7}{'MiB':>8}{names}")
    for row in rows:
        if "seconds" not in row:
            print(f"{row['name']:34}not installed")
            continue
        memory = row.get("extra_mib", row.get("peak_mib"))
        cells = "".join(f"{'-' if row.get(key) is None else f'{row[key]:.6f}':>12}" for key in METRICS)
        print(f"{row['name']:34}{row['seconds']:8.2f}{row['seconds'] / base:7.1f}{memory:8.0f}{cells}")


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--repeats", type=int, default=3, help="turns of every contender; the fastest counts")
    parser.add_argument("--stream", action="store_true", help="make the maps one by one; accumulators only")
    parser.add_argument("--peers-python", type=Path, help="interpreter of the environment of benchmarks/peers.txt")
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    size = [str(options.images), str(options.side)]
    with tempfile.TemporaryDirectory() as folder:
        if not options.stream:
            write_maps(Path(folder), options.images, options.side)
        arguments = ["stream", *size] if options.stream else ["maps", folder]
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in (STREAMED if options.stream else LINES)}
        for _ in range(options.repeats):
            for name, done in turns.items():
                python = options.peers_python if LINES[name][1] else Path(sys.executable)
                if (result := run(name, python, arguments)) is not None:
                    done.append(result)
    rows = [
        {"contender": name, "name": LINES[name][0], **(best_of(done) if done else {})} for name, done in turns.items()
    ]
    facts = surroundings(1, ("numpy", "scipy", "scikit-learn", "opencv-python-headless"))
    print(f"{options.images} maps of {options.side} x {options.side}, {facts['cpu']}, load {facts['load_at_end']}")
    show(rows)
    write_json(options.json, {**facts, "images": options.images, "side": options.side, "stream": options.stream}, rows)


if __name__ == "__main__":
    main()
