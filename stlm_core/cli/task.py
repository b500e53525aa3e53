"""``stlm task``: what a container of a Kubeflow pipeline runs."""

from __future__ import annotations

from typing import Annotated

import typer

from stlm_core.cli.options import Line


def task_command(
    name: Annotated[str, typer.Argument(help="A step of the pipeline, or a task around the steps.", metavar="TASK")],
    line: Line,
    executor_input: Annotated[
        str, typer.Option("--executor-input", help="What Kubeflow Pipelines puts in the place of {{$}}: JSON.")
    ],
) -> None:
    """Run one task of a pipeline in a container of Kubeflow Pipelines, which names its settings, inputs and outputs."""
    from stlm_core.steps.container import run_in_container

    typer.echo(f"{name} {line}: {run_in_container(name, line, executor_input)}")
