"""``stlm export``."""

from __future__ import annotations

import typer

from stlm_core.cli.options import DEFAULT_OUTPUTS, DEFAULT_PARAMS, Force, Inputs, Line, Outputs, Params, open_line


def export_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    inputs: Inputs = None,
    force: Force = False,
) -> None:
    """Write the detector as one ONNX file, with the proof that it says the same, its speed and its card."""
    from stlm_core.steps.export import export

    result = export(*open_line(line, params, outputs, inputs), force=force)
    typer.echo(f"export {line}: {result.summary}")
