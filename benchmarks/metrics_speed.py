"""Speed and memory of the pixel metrics against scikit-learn and an exact AUPRO.

    python benchmarks/metrics_speed.py [--images 100] [--side 512] [--json FILE]

Every contender sees the same seeded maps, one thread. "Extra" is the peak of what it allocates besides the maps and
masks, which the histograms would not need to be in memory at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Maps = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]


def make_maps(images: int, side: int) -> tuple[Maps, Masks]:
    """Smooth maps in [0, 1] with masks of about a dozen regions in every second image."""
    rng = np.random.default_rng(0)
    maps = np.empty((images, side, side), dtype=np.float32)
    masks = np.zeros((images, side, side), dtype=bool)
    for number in range(images):
        noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 64)
        noise /= noise.std()
        if number % 2 == 0:
            masks[number] = noise > 2.0
        evidence = noise + rng.normal(size=(side, side)) - 3
        maps[number] = 1 / (1 + np.exp(-evidence))
    return maps, masks


def ours(maps: Maps, masks: Masks, exact: bool = False) -> dict[str, float | None]:
    """All pixel metrics of the project."""
    from stlm_core.evaluation.metrics import aupro, average_precision, f1_max, pixel_accumulator, ranking_auroc

    accumulator = pixel_accumulator(exact)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        accumulator.update(anomaly_map, mask)
    counts = accumulator.counts()
    best = f1_max(counts)
    return {
        "pixel_auroc": ranking_auroc(counts),
        "pixel_ap": average_precision(counts),
        "pixel_f1_max": best[0] if best else None,
        "aupro_30": aupro(counts, 0.3),
        "aupro_05": aupro(counts, 0.05),
    }


def ours_exact(maps: Maps, masks: Masks) -> dict[str, float | None]:
    """The project's metrics from every score."""
    return ours(maps, masks, exact=True)


def sklearn_auroc(maps: Maps, masks: Masks) -> dict[str, float | None]:
    """scikit-learn's roc_auc_score alone."""
    from sklearn.metrics import roc_auc_score

    return {"pixel_auroc": float(roc_auc_score(masks.ravel(), maps.ravel()))}


def exact_aupro(maps: Maps, masks: Masks) -> dict[str, float | None]:
    """AUPRO from all sorted scores, written without the project's code."""
    false = ~masks
    share = np.zeros(maps.shape, dtype=np.float64)
    regions = 0
    for number, mask in enumerate(masks):
        labels, found = ndimage.label(mask, structure=np.ones((3, 3)))
        areas = np.bincount(labels.ravel(), minlength=found + 1)
        share[number][mask] = 1 / areas[labels[mask]]
        regions += found
    order = np.argsort(maps.ravel())[::-1]
    scores = maps.ravel()[order]
    last_of_ties = np.append(scores[1:] != scores[:-1], True)
    fpr = np.append(0, np.cumsum(false.ravel()[order])[last_of_ties] / false.sum())
    pro = np.append(0, np.cumsum(share.ravel()[order])[last_of_ties] / regions)
    values: dict[str, float | None] = {}
    for name, limit in (("aupro_30", 0.3), ("aupro_05", 0.05)):
        inside = fpr <= limit
        x = np.append(fpr[inside], limit)
        y = np.append(pro[inside], np.interp(limit, fpr, pro))
        values[name] = float(np.trapezoid(y, x) / limit)
    return values


CONTENDERS: dict[str, Callable[[Maps, Masks], dict[str, float | None]]] = {
    "stlm, histograms (5 metrics)": ours,
    "stlm, exact (5 metrics)": ours_exact,
    "scikit-learn roc_auc_score": sklearn_auroc,
    "exact AUPRO, all scores sorted": exact_aupro,
}


def measure(name: str, maps: Maps, masks: Masks, repeats: int) -> dict[str, object]:
    """Fastest time of ``repeats`` runs, and peak of the memory that one more run allocates (tracemalloc)."""
    contender = CONTENDERS[name]
    contender(maps[:1], masks[:1])  # imports
    seconds, values = [], {}
    for _ in range(repeats):
        began = time.perf_counter()
        values = contender(maps, masks)
        seconds.append(time.perf_counter() - began)
    tracemalloc.start()
    contender(maps, masks)
    extra = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"name": name, "ms": 1000 * min(seconds), "extra_peak_mib": extra / 2**20, **values}


def main() -> None:
    """Print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    maps, masks = make_maps(options.images, options.side)
    rows = []
    print(f"{options.images} maps of {options.side} x {options.side}, {platform.machine()}, {os.cpu_count()} cores")
    print(f"{'':34}{'ms':>9}{'extra MiB':>11}{'AUROC':>9}{'AP':>9}{'AUPRO.3':>9}{'AUPRO.05':>10}")
    for name in CONTENDERS:
        row = measure(name, maps, masks, options.repeats)
        rows.append(row)
        shown = [row.get(key) for key in ("pixel_auroc", "pixel_ap", "aupro_30", "aupro_05")]
        cells = "".join(f"{'-' if value is None else f'{value:.5f}':>9}" for value in shown)
        print(f"{name:34}{row['ms']:9.0f}{row['extra_peak_mib']:11.1f}{cells}")
    if options.json:
        options.json.write_text(json.dumps({"images": options.images, "side": options.side, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
