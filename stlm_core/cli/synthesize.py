"""``stlm synthesize``."""

from __future__ import annotations

import typer

from stlm_core.cli.options import DEFAULT_OUTPUTS, DEFAULT_PARAMS, Force, Inputs, Line, Outputs, Params, open_line


def synthesize_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    inputs: Inputs = None,
    force: Force = False,
) -> None:
    """Make the bank of pseudo-anomalous variants of the line's good images."""
    from stlm_core.steps.synthesize import synthesize

    result = synthesize(*open_line(line, params, outputs, inputs), force=force)
    typer.echo(f"synthesize {line}: {result.summary}")
