"""``stlm summary`` and ``stlm config``."""

from __future__ import annotations

from typing import Annotated

import typer

from stlm_core.cli.options import DEFAULT_OUTPUTS, DEFAULT_PARAMS, Line, Outputs, Params, open_line


def summary_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    costs: Annotated[bool, typer.Option("--costs", help="Also seconds and peak memory of every step.")] = False,
) -> None:
    """Print a line's figures, where its report is, and how to open MLflow."""
    from rich.console import Console
    from rich.table import Table

    from stlm_core.steps.summary import mlflow_door, summarise

    config, workspace = open_line(line, params, outputs)
    summary = summarise(config, workspace)
    console = Console(soft_wrap=True)
    table = Table("figure", "value", title=f"line {line}", title_justify="left")
    for row in summary.rows:
        table.add_row(*row)
    console.print(table)
    if costs:
        table = Table("step", "seconds", "peak MiB")
        for cost in summary.costs:
            table.add_row(cost.step, f"{cost.seconds:.1f}", f"{cost.peak_memory_mib:.0f}")
        console.print(table)
    typer.echo(f"report:  {summary.report}")
    typer.echo(f"model:   {summary.onnx}")
    typer.echo(f"MLflow:  {mlflow_door(config)}")


def config_command(line: Line, params: Params = DEFAULT_PARAMS) -> None:
    """Print a line's merged settings: defaults, its profile, its own."""
    import yaml

    from stlm_core.config import load_line

    merged = load_line(params, line).model_dump(mode="json", by_alias=True, exclude={"root"})
    typer.echo(yaml.safe_dump(merged, sort_keys=False), nl=False)
