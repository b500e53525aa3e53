"""``stlm evaluate``: measure a line's detector and fit its threshold."""

from __future__ import annotations

import typer

from stlm_core.cli.options import DEFAULT_OUTPUTS, DEFAULT_PARAMS, Force, Inputs, Line, Outputs, Params, open_line


def evaluate_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    inputs: Inputs = None,
    force: Force = False,
) -> None:
    """Fit the threshold on held-back good images, measure the test images, write the report."""
    from stlm_core.steps.evaluate import REPORT, evaluate

    result = evaluate(*open_line(line, params, outputs, inputs), force=force)
    typer.echo(f"evaluate {line}: {result.summary}")
    typer.echo(f"report: {result.folder / REPORT}")
