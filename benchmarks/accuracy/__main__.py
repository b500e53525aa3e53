"""The command line of the accuracy benchmark.

    python -m benchmarks.accuracy run RESULTS --line sample bottle --configuration default best --seed 0 1 2
    python -m benchmarks.accuracy run RESULTS --line bottle --configuration patchcore --peers-python PEERS/bin/python
    python -m benchmarks.accuracy run RESULTS --line cable=MVTEC/cable pcb=VISA:visa
    python -m benchmarks.accuracy table RESULTS
    python -m benchmarks.accuracy robustness RESULTS --line bottle --model outputs/bottle/export/model.onnx
    python -m benchmarks.accuracy shares RESULTS --line bottle --model outputs/bottle/train-fa/detector.safetensors
    python -m benchmarks.accuracy taught RESULTS --line screw --model outputs/screw/train-fa/detector.safetensors

Finished cells are kept in RESULTS, so an interrupted run continues. Configurations are ranked by the column
`selected by` alone, which knows no test image.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.accuracy.baselines import BASELINES
from benchmarks.accuracy.configurations import CONFIGURATIONS, read_configurations
from benchmarks.accuracy.grid import Grid
from benchmarks.accuracy.lines import DATASETS, KNOWN, find_line
from benchmarks.accuracy.records import read_records
from benchmarks.accuracy.robustness import run_robustness
from benchmarks.accuracy.shares import run_shares
from benchmarks.accuracy.table import write_tables
from benchmarks.accuracy.taught import STEPS, run_taught
from stlm_core.errors import StlmError


def main() -> None:
    """Parse and do what is asked; an error is one sentence and exit status 2."""
    arguments = _parser().parse_args()
    try:
        if arguments.command == "run":
            _run(arguments)
        elif arguments.command == "table":
            print(write_tables(arguments.results, read_records(arguments.results)))
        else:
            print(_look(arguments))
    except StlmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except subprocess.CalledProcessError as error:
        named = " ".join(map(str, error.cmd[-3:]))
        print(f"error: a command failed with status {error.returncode}: ... {named}", file=sys.stderr)
        sys.exit(1)


def _run(arguments: argparse.Namespace) -> None:
    results: Path = arguments.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    own = read_configurations(arguments.configurations) if arguments.configurations else {}
    grid = Grid(results, {**CONFIGURATIONS, **own}, arguments.peers_python, not arguments.no_export)
    grid.check(arguments.configuration)
    lines = [find_line(spec, arguments.datasets, results) for spec in arguments.line]
    for seed in arguments.seed:  # all of one seed first: an interrupted grid then has whole columns
        for line in lines:
            for name in arguments.configuration:
                grid.run(line, name, seed)
    print(write_tables(results, read_records(results)))


def _look(arguments: argparse.Namespace) -> str:
    """At one finished model."""
    results: Path = arguments.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    line = find_line(arguments.line, arguments.datasets, results)
    if arguments.command == "robustness":
        return run_robustness(results, line, arguments.model)
    if arguments.command == "shares":
        return run_shares(results, line, arguments.model, arguments.top_pixels)
    return run_taught(results, line, arguments.model, arguments.top_pixels, arguments.seed, arguments.steps)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run what is not finished, and print the table")
    table = commands.add_parser("table", help="print the table of what is finished")
    robustness = commands.add_parser("robustness", help="a finished model on distorted test images")
    shares = commands.add_parser("shares", help="a finished detector with its memory heard more or less")
    taught = commands.add_parser("taught", help="a finished detector whose decoder learns from real defects instead")
    looks = (robustness, shares, taught)
    for command in (run, table, *looks):
        command.add_argument("results", type=Path, help="folder to make or continue")
    for command in (run, *looks):
        command.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the known lines' images")
    which = f"{', '.join(KNOWN)}, or NAME=FOLDER[:FORMAT[:CATEGORY]]"
    run.add_argument("--line", nargs="+", required=True, help=which)
    for command in looks:
        command.add_argument("--line", required=True, help=which)
    robustness.add_argument("--model", type=Path, required=True, help="model.onnx of the line")
    for command in (shares, taught):
        command.add_argument("--model", type=Path, required=True, help="detector.safetensors of the line's train-fa")
        command.add_argument("--top-pixels", type=int, default=30, help="as in evaluate.top_pixels")
    taught.add_argument("--seed", type=int, default=0, help="of the halves, the start and the batches")
    taught.add_argument("--steps", type=int, default=STEPS, help=f"of training, {STEPS} unless said")
    known = f"{', '.join((*CONFIGURATIONS, *BASELINES))}, or one of --configurations"
    run.add_argument("--configuration", nargs="+", default=["default"], help=known)
    run.add_argument("--configurations", type=Path, help="YAML file of further ones: a name, then sections of settings")
    run.add_argument("--seed", nargs="+", type=int, default=[0])
    run.add_argument("--peers-python", type=Path, help="interpreter with the packages of peers.txt")
    run.add_argument("--no-export", action="store_true", help="leave out the ONNX file, a minute a cell")
    return parser


if __name__ == "__main__":
    main()
