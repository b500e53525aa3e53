"""``stlm cache-teacher``, ``distill``, ``train-fa`` and ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stlm_core.cli.options import DEFAULT_OUTPUTS, DEFAULT_PARAMS, Force, Inputs, Line, Outputs, Params, open_line


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
        result = cache_teacher_shard(config, workspace, int(number), int(count), out)
    elif merge:
        result = merge_shards(config, workspace, merge)
    else:
        result = cache_teacher(config, workspace, force=force)
    typer.echo(f"cache-teacher {line}: {result.summary}")


def distill_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    inputs: Inputs = None,
    force: Force = False,
) -> None:
    """Train the two streams on the teacher's features; a killed run continues from its checkpoint."""
    from stlm_core.steps.distill import distill

    result = distill(*open_line(line, params, outputs, inputs), force=force)
    typer.echo(f"distill {line}: {result.summary}")


def train_fa_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    inputs: Inputs = None,
    force: Force = False,
) -> None:
    """Train the feature aggregation; a killed run continues from its checkpoint."""
    from stlm_core.steps.train_fa import train_fa

    result = train_fa(*open_line(line, params, outputs, inputs), force=force)
    typer.echo(f"train-fa {line}: {result.summary}")


def run_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    force: Force = False,
) -> None:
    """Run every step of a line in order, skipping what is up to date."""
    from stlm_core.steps.pipeline import run_line

    for step, result in run_line(*open_line(line, params, outputs), force=force):
        typer.echo(f"{step} {line}: {result.summary}")
