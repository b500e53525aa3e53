"""One command for every pipeline step, and ``stlm run`` for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from stlm_core.cli.options import (
    DEFAULT_OUTPUTS,
    DEFAULT_PARAMS,
    Force,
    Inputs,
    Line,
    Outputs,
    Params,
    Processes,
    open_line,
)


def step_command(step: str, description: str, report: str | None = None) -> Callable[..., None]:
    """The command that runs ``step`` on a line and prints its summary.

    ``description`` is the command's help; ``report`` is the file in the step's folder that a person wants to open,
    printed as a second line.
    """

    def command(
        line: Line,
        params: Params = DEFAULT_PARAMS,
        outputs: Outputs = DEFAULT_OUTPUTS,
        inputs: Inputs = None,
        force: Force = False,
    ) -> None:
        from stlm_core.steps.pipeline import run_one

        result = run_one(step, *open_line(line, params, outputs, inputs), force=force)
        typer.echo(f"{step} {line}: {result.summary}")
        if report is not None:
            typer.echo(f"report: {result.folder / report}")

    command.__doc__ = description
    return command


def training_command(step: str, description: str) -> Callable[..., None]:
    """The command that runs a training step on a line, in one or several processes, and prints its summary."""

    def command(
        line: Line,
        params: Params = DEFAULT_PARAMS,
        outputs: Outputs = DEFAULT_OUTPUTS,
        inputs: Inputs = None,
        force: Force = False,
        processes: Processes = 1,
    ) -> None:
        from stlm_core.steps.pipeline import run_one

        result = run_one(step, *open_line(line, params, outputs, inputs), force=force, processes=processes)
        typer.echo(f"{step} {line}: {result.summary}")

    command.__doc__ = description
    return command


validate_command = step_command(
    "validate",
    "Read every image of the line, check the rules, write the manifest and Data Docs.",
    report="data_docs/index.html",
)
synthesize_command = step_command("synthesize", "Make the bank of pseudo-anomalous variants of the line's good images.")
distill_command = training_command(
    "distill", "Train the two streams on the teacher's features; a killed run continues from its checkpoint."
)
train_fa_command = training_command(
    "train-fa", "Train the feature aggregation; a killed run continues from its checkpoint."
)
evaluate_command = step_command(
    "evaluate",
    "Fit the threshold on held-back good images, measure the test images, write the report.",
    report="report.html",
)
export_command = step_command(
    "export", "Write the detector as one ONNX file, with the proof that it says the same, its speed and its card."
)
register_command = step_command(
    "register", "Log the export and its evaluation to MLflow and register it as the line's challenger."
)
quantize_command = step_command(
    "quantize",
    "Make an int8 version of the exported model, refused unless it decides the same on the line's own images.",
)


def cache_teacher_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    inputs: Inputs = None,
    force: Force = False,
    shard: Annotated[str | None, typer.Option("--shard", help="I/N: compute one of N shards, I from 0.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the shard.")] = None,
    merge: Annotated[list[Path] | None, typer.Option("--merge", help="Folder of a shard to join; repeat.")] = None,
) -> None:
    """Compute the teacher's features of every view, once; what is there already is kept."""
    from stlm_core.errors import UserError
    from stlm_core.steps.cache_teacher import cache_teacher, cache_teacher_shard, merge_shards

    config, workspace = open_line(line, params, outputs, inputs)
    if shard is not None:
        number, found, count = shard.partition("/")
        if not found or not number.isdecimal() or not count.isdecimal() or out is None or merge:
            raise UserError(f"--shard {shard}: must be I/N, together with --out FOLDER and without --merge")
        result = cache_teacher_shard(config, workspace, int(number), int(count), out, force=force)
    elif merge:
        result = merge_shards(config, workspace, merge, force=force)
    else:
        result = cache_teacher(config, workspace, force=force)
    typer.echo(f"cache-teacher {line}: {result.summary}")


def run_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    force: Force = False,
    processes: Processes = 1,
) -> None:
    """Run every step of a line in order, skipping what is up to date."""
    from stlm_core.steps.pipeline import run_line

    for step, result in run_line(*open_line(line, params, outputs), force=force, processes=processes):
        typer.echo(f"{step} {line}: {result.summary}")
