"""How time and memory of the bookkeeping grow with the number of images.

    python benchmarks/scale.py [--counts 100 1000 10000] [--parts ...] [--limit 240] [--add JSON] [--figure PNG]
                               [--json FILE]

Every part and number runs in a process of its own, with inputs as small as they may be (32 px images, features of
16 numbers), so that what grows with the number shows rather than the pixels. Making the inputs is not timed. "MiB" is
the process's peak beyond what it held when the part began (imports done, inputs made). A part is left out at a number
where ten times the seconds of the number before would exceed the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from manifest_speed import generate, line_config
from measure import forget_peak, resident_mib, surroundings, write_json

SIDE = 32
Work = Callable[[], object]


def manifest(folder: Path, count: int) -> Work:
    """Every file read, decoded, hashed and measured; the manifest written and read."""
    from stlm_core.data.inspection import inspect_line
    from stlm_core.data.manifest import Manifest, manifest_of

    generate(folder / "images", count, SIDE)
    config = line_config(folder, folder / "images")

    def work() -> None:
        manifest_of(inspect_line(config)).write(folder / "manifest.parquet")
        Manifest.read(folder / "manifest.parquet", folder / "images")

    return work


def validation(folder: Path, count: int) -> Work:
    """All rules of the line over the rows of its images, with Great Expectations and its report."""
    from stlm_core.data.inspection import inspect_line
    from stlm_core.integrations.expectations import validate_inspection

    generate(folder / "images", count, SIDE)
    config = line_config(folder, folder / "images")
    inspection = inspect_line(config)
    (folder / "report").mkdir()
    return lambda: validate_inspection(inspection, config, folder / "report")


def synthesis(folder: Path, count: int) -> Work:
    """The bank of one pseudo anomaly of every image."""
    from stlm_core.files import sha256_file
    from stlm_core.settings import SynthesizeConfig
    from stlm_core.synthesis.build import build_bank
    from stlm_core.synthesis.plan import SourceImage
    from stlm_core.synthesis.textures import open_textures

    generate(folder / "images", count, SIDE)
    (folder / "bank").mkdir()
    files = sorted((folder / "images/train/good").iterdir())
    sources = [SourceImage(f.relative_to(folder / "images").as_posix(), sha256_file(f), "train") for f in files]
    settings, textures = SynthesizeConfig(variants=1), open_textures(None, SIDE)
    return lambda: build_bank(
        folder / "bank", folder / "images", sources, textures, settings, size=SIDE, max_pixels=10**6, workers=1
    )


def cache(folder: Path, count: int) -> Work:
    """A cache of features that cost nothing: filled, indexed, opened with its checksums, filled again."""
    from stlm_core.cache.store import FeatureCache, feature_key, fill, write_index

    keys = [feature_key(f"{number:064x}", "teacher", 2) for number in range(count)]
    row = np.ones((1, 4, 2, 2), np.float16)

    def work() -> None:
        for _ in range(2):
            fill(folder, keys, lambda positions: np.repeat(row[None], len(positions), 0))
        write_index(folder, keys)
        FeatureCache.open(folder, verify=True)

    return work


def evaluation(folder: Path, count: int) -> Work:
    """Metrics, curves, tables and evidence from predictions made one by one, every tenth anomalous."""
    from stlm_core.evaluation.evaluate import evaluate_predictions
    from stlm_core.evaluation.operating_point import fit_operating_point
    from stlm_core.evaluation.predictions import GOOD, Prediction

    maps = np.random.default_rng(0).random((100, SIDE, SIDE), np.float32)
    image, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.eye(SIDE, dtype=bool)
    point = fit_operating_point(maps.mean((1, 2)), 0.05)

    def prediction(number: int) -> Prediction:
        bad, scores = number % 10 == 0, maps[number % 100]
        kind, name = ("dent", f"{number:06d}.png") if bad else (GOOD, f"{number:06d}.png")
        sha256 = f"{number:064x}"
        return Prediction(name, int(bad), kind, float(scores.mean()), scores, mask if bad else None, image, sha256)

    return lambda: evaluate_predictions(map(prediction, range(count)), point)


PARTS: dict[str, Callable[[Path, int], Work]] = {
    "manifest": manifest,
    "validation": validation,
    "synthesis": synthesis,
    "cache": cache,
    "evaluation": evaluation,
}


def once(part: str, count: int) -> dict[str, float]:
    """Seconds and MiB of ``part``; once on a few images before, for what is imported late."""
    with tempfile.TemporaryDirectory() as first:
        PARTS[part](Path(first), 50)()
    with tempfile.TemporaryDirectory() as folder:
        work = PARTS[part](Path(folder), count)
        forget_peak()
        before, began, processor = resident_mib(), time.perf_counter(), time.process_time()
        work()
        seconds, cpu = time.perf_counter() - began, time.process_time() - processor
        return {"seconds": seconds, "cpu_s": cpu, "mib": resident_mib("VmHWM") - before}


def in_a_process(part: str, count: int) -> dict[str, float]:
    """:func:`once` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", part, str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def slopes(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Per further image between the last two numbers: milliseconds, KiB; and the power of the number they grow by."""
    (few, many) = rows[-2:]
    more, times = many["count"] - few["count"], np.log(many["count"] / few["count"])
    return {
        "ms_an_image": 1000 * (many["seconds"] - few["seconds"]) / more,
        "kib_an_image": 1024 * (many["mib"] - few["mib"]) / more,
        "time_power": float(np.log(many["seconds"] / few["seconds"]) / times),
    }


def draw(rows: list[dict[str, Any]], growth: dict[str, dict[str, float]], path: Path) -> None:
    """Seconds and MiB against the number of images, both axes logarithmic; the slopes are in the legends."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    panels = (("seconds", "seconds", "ms_an_image", "ms"), ("mib", "peak MiB beyond the start", "kib_an_image", "KiB"))
    for axis, (key, label, slope, unit) in zip(axes, panels, strict=True):
        for part, marker in zip(PARTS, "osD^v", strict=True):
            mine = [row for row in rows if row["part"] == part]
            if not mine:
                continue
            counts, values = [row["count"] for row in mine], [max(row[key], 0.1 if key == "mib" else 0) for row in mine]
            axis.loglog(counts, values, marker=marker, markersize=5, linewidth=1.6)
            if part in growth:
                axis.lines[-1].set_label(f"{part}: {growth[part][slope]:.2g} {unit} a further image")
        axis.set_xlabel("images")
        axis.set_ylabel(label)
        axis.grid(True, which="major", color="0.88")
        axis.spines[["top", "right"]].set_visible(False)
    low, high = (edge(row["count"] for row in rows) for edge in (min, max))
    base = min(row["seconds"] for row in rows if row["count"] == low)
    axes[0].loglog([low, high], [base, base * high / low], "--", color="0.6", label="in proportion")
    for axis in axes:
        axis.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print the table and the slopes, draw, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1_000, 10_000], help="numbers of images")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="none: draw --add")
    parser.add_argument("--limit", type=float, default=240, help="seconds that no part is expected to take")
    parser.add_argument("--add", type=Path, help="JSON of a run of other parts, to draw and write together with these")
    parser.add_argument("--figure", type=Path, help="draw it there")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--one", nargs=2, metavar=("PART", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(once(options.one[0], int(options.one[1]))))
        return
    before = json.loads(options.add.read_text(encoding="utf-8")) if options.add else {"rows": [], "growth": {}}
    rows: list[dict[str, Any]] = [row for row in before["rows"] if row["part"] not in options.parts]
    growth = {part: figures for part, figures in before["growth"].items() if part not in options.parts}
    print(f"{'part':12}{'images':>9}{'seconds':>10}{'cpu s':>9}{'MiB':>9}")
    for part in options.parts:
        mine: list[dict[str, Any]] = []
        for count in sorted(options.counts):
            if mine and mine[-1]["seconds"] * count / mine[-1]["count"] > options.limit:
                break
            mine.append({"part": part, "count": count, **in_a_process(part, count)})
            row = mine[-1]
            print(f"{part:12}{count:>9}{row['seconds']:>10.2f}{row['cpu_s']:>9.2f}{row['mib']:>9.1f}", flush=True)
        rows += mine
        if len(mine) > 1:
            growth[part] = slopes(mine)
            print(f"{part:12}{'':>9} " + ", ".join(f"{name} {value:.3f}" for name, value in growth[part].items()))
    if options.figure:
        draw(rows, growth, options.figure)
    write_json(options.json, {**surroundings(1, ("numpy", "pyarrow", "great-expectations")), "growth": growth}, rows)


if __name__ == "__main__":
    main()
