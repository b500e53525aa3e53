"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stlm_core.config import LineConfig
    from stlm_core.steps.workspace import Workspace

Line = Annotated[str, typer.Option("--line", help="Product line, as named in params.yaml.")]
Params = Annotated[Path, typer.Option("--params", help="The project's settings.")]
Outputs = Annotated[Path, typer.Option("--outputs", help="Folder of the steps' outputs, one folder a line.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="STEP=FOLDER: take this step's folder from elsewhere; may be repeated."),
]
Force = Annotated[bool, typer.Option("--force", help="Run even if nothing changed.")]
Processes = Annotated[
    int,
    typer.Option(
        "--processes", min=0, envvar="STLM_PROCESSES", help="Processes that train together; 0: one for every GPU."
    ),
]

DEFAULT_PARAMS = Path("params.yaml")
DEFAULT_OUTPUTS = Path("outputs")


def open_line(line: str, params: Path, outputs: Path, inputs: list[str] | None = None) -> tuple[LineConfig, Workspace]:
    """The line's configuration and its folders.

    Raises:
        UserError: an unknown line or step, or a wrong setting.
    """
    from stlm_core.config import load_line
    from stlm_core.errors import UserError
    from stlm_core.steps.workspace import STEPS, Workspace

    overrides = {}
    for given in inputs or []:
        step, found, folder = given.partition("=")
        if not found or step not in STEPS or not folder:
            raise UserError(f"--input {given}: must be STEP=FOLDER with a step of {', '.join(STEPS)}")
        overrides[step] = Path(folder).resolve()
    return load_line(params, line), Workspace(outputs.resolve(), line, overrides)
