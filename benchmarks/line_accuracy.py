"""Accuracy, time and memory of whole pipeline runs: the tables of docs/results.md.

    python benchmarks/line_accuracy.py FOLDER sample sample:1 sample:2
    python benchmarks/line_accuracy.py FOLDER bottle magnetic-tile --datasets DATASETS
    python benchmarks/line_accuracy.py FOLDER sample/uncentred sample/no-skip sample/staged sample/streams-alone

A run is LINE[:SEED][/VARIANT]. Each becomes a line of a project in FOLDER with the settings of this checkout's
params.yaml, of profile `cpu` unless the variant has another, and runs by `stlm`, one process for all steps; finished
steps are kept, so an interrupted benchmark continues. DATASETS holds `mvtec_ad/bottle`, `mvtec_ad/screw`,
`magnetic_tile` and `dtd_textures`. Variants are chosen on pseudo anomalies, which is why their figures are in the
table; the test split is reported.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from stlm_core.config import SECTIONS, deep_merge
from stlm_core.data.sample_line import write_sample_line
from stlm_core.steps.workspace import STEPS

REPOSITORY = Path(__file__).resolve().parents[1]
# Settings over the defaults. `streams-alone` evaluates the default run's weights by the streams' discrepancy.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "streams-alone": {"evaluate": {"map_source": "tlm"}},
    "best": {"profile": "best"},
    "joint": {"fa": {"joint_finetune": True, "stream_lr": 2.0e-4}},
    "two-students": {"profile": "two-students"},
    "uncentred": {"profile": "two-students", "model": {"centre_features": False}},
    "no-skip": {"profile": "two-students", "model": {"discrepancy_skip": False}},
    "random-start": {"profile": "two-students", "model": {"init": "random"}},
    # FA on frozen streams: these get the steps that joint training would have given them.
    "staged": {
        "profile": "two-students",
        "distill": {"steps": 280, "validate_every": 70},
        "fa": {"joint_finetune": False},
    },
}
FIGURES = (
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap",
    "aupro_30", "aupro_05", "recall_at_budget", "false_reject_rate",
)  # fmt: skip


def line_settings(line: str, seed: int, datasets: Path) -> dict[str, Any]:
    """Where the line's images are, its textures and its seeds."""
    seeds = {section: {"seed": seed} for section in ("data", "synthesize", "distill", "fa")}
    if line == "sample":
        own = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["lines"]["sample"]
        del own["profile"]
        return deep_merge(deep_merge(own, seeds), {"data": {"path": "sample"}})
    textures = {"synthesize": {"textures": str(datasets / "dtd_textures")}}
    if line == "bottle":
        return deep_merge(seeds, {**textures, "data": {"path": str(datasets / "mvtec_ad" / "bottle")}})
    if line == "screw":
        return deep_merge(seeds, {**textures, "data": {"path": str(datasets / "mvtec_ad" / "screw")}})
    if line == "magnetic-tile":
        data = {"path": str(datasets / "magnetic_tile"), "format": "magnetic_tile"}
        return deep_merge(seeds, {"data": data, "synthesize": {**textures["synthesize"], "variants": 1}})
    raise SystemExit(f"unknown line {line}: sample, bottle, screw or magnetic-tile")


def parse(run: str) -> tuple[str, int, str, str]:
    """Line, seed, variant and the name of the run's line in params.yaml."""
    named, _, variant = run.partition("/")
    line, _, seed = named.partition(":")
    variant = variant or "default"
    if variant not in VARIANTS:
        raise SystemExit(f"unknown variant {variant}: {', '.join(VARIANTS)}")
    return line, int(seed or 0), variant, f"{line}-{seed or 0}-{variant}"


def stlm(folder: Path, *arguments: str) -> None:
    """Run the command line in the project."""
    environment = {"STLM_WEIGHTS": str(REPOSITORY / ".stlm" / "weights"), **os.environ}
    command = [sys.executable, "-c", "from stlm_core.cli import main; main()", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def result(folder: Path, name: str) -> dict[str, Any]:
    """Figures of a finished run: on pseudo anomalies, on the test split, and each step's cost."""
    outputs = folder / "outputs" / name
    metrics = json.loads((outputs / "evaluate" / "metrics.json").read_text())
    manifests = {step: outputs / step / "manifest.json" for step in STEPS}
    costs = {step: json.loads(path.read_text()) for step, path in manifests.items() if path.exists()}
    selection = outputs / "train-fa" / "selection.json"
    pseudo = json.loads(selection.read_text())["best"] if selection.exists() else {}
    return {
        "pseudo": {figure: pseudo.get(figure) for figure in ("image_auroc", "pixel_ap", "selection")},
        "test": {figure: metrics.get(figure) for figure in FIGURES},
        "seconds": {step: cost["seconds"] for step, cost in costs.items()},
        "peak_memory_mib": {step: cost["peak_memory_mib"] for step, cost in costs.items()},
    }


def percent(value: float | None) -> str:
    """A share as percent with two decimals."""
    return "-" if value is None else f"{100 * value:.2f}"


def main() -> None:
    """Run what is not finished, print the tables, write line_accuracy.json into the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="project to make or continue")
    parser.add_argument("runs", nargs="+", help="LINE[:SEED][/VARIANT]")
    parser.add_argument("--datasets", type=Path, default=REPOSITORY.parent / "shared" / "datasets")
    arguments = parser.parse_args()
    folder, datasets = arguments.folder.resolve(), arguments.datasets.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "sample").exists():
        write_sample_line(folder / "sample")
    tree = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    results = {}
    for line, seed, variant, name in map(parse, arguments.runs):
        settings = deep_merge(line_settings(line, seed, datasets), VARIANTS[variant])
        tree["lines"] = {name: {"profile": "cpu", **{section: {} for section in SECTIONS}, **settings}}
        (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        if variant == "streams-alone":
            trained = folder / "outputs" / f"{line}-{seed}-default"
            stlm(folder, "validate", "--line", name)
            stlm(folder, "evaluate", "--line", name, "--input", f"train-fa={trained / 'train-fa'}")
        else:
            stlm(folder, "run", "--line", name)
        results[name] = result(folder, name)
    (folder / "line_accuracy.json").write_text(json.dumps(results, indent=2) + "\n")
    table = csv.writer(sys.stdout, delimiter="|", lineterminator="\n")
    table.writerow(["run", "pseudo image AUROC", "pseudo pixel AP", *FIGURES])
    for name, found in results.items():
        pseudo = (found["pseudo"]["image_auroc"], found["pseudo"]["pixel_ap"])
        table.writerow([name, *map(percent, pseudo), *map(percent, found["test"].values())])
    table.writerow(["step (seconds, MiB)", *results])
    for step in STEPS:
        costs = ((found["seconds"].get(step), found["peak_memory_mib"].get(step)) for found in results.values())
        table.writerow([step, *(f"{seconds:.0f}, {mib:.0f}" if seconds else "-" for seconds, mib in costs)])


if __name__ == "__main__":
    main()
