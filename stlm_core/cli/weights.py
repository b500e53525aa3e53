"""``stlm weights``: pretrained files of the teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stlm_core.errors import UserError

weights_app = typer.Typer(help="Fetch, list and verify the teachers' pretrained weights.", no_args_is_help=True)

Params = Annotated[Path, typer.Option("--params", help="The project's params.yaml; the cache folder lies beside it.")]


@weights_app.command("fetch")
def fetch_command(
    names: Annotated[list[str], typer.Argument(help="Names in `stlm weights list`, for example lite_medsam.")],
    source: Annotated[
        str | None, typer.Option("--from", help="https:// or s3:// address or path, in place of the usual source.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="The hash the file must have, in place of the pinned one.")
    ] = None,
    params: Params = Path("params.yaml"),
) -> None:
    """Fetch files into the cache folder and check their hashes; an interrupted fetch continues."""
    from stlm_core.steps.weights import fetch_weights, weights_folder

    if len(names) > 1 and (source is not None or sha256 is not None):
        raise UserError("--from and --sha256 are for one file; name one")
    for name in names:
        fetched = fetch_weights(name, weights_folder(params.resolve().parent), source, sha256)
        verb = "is there already" if fetched.reused else "fetched"
        typer.echo(f"{name}: {verb}: {fetched.path} ({fetched.path.stat().st_size / 1e6:.1f} MB, sha256 verified)")
        if fetched.custom:
            typer.echo(f"to use it: set teacher.weights to its path and teacher.weights_sha256 to {fetched.sha256}")


@weights_app.command("list")
def list_command(params: Params = Path("params.yaml")) -> None:
    """List every known file: whether it is there, size, licence and source."""
    from rich.console import Console
    from rich.table import Table

    from stlm_core.steps.weights import list_weights, weights_folder

    folder = weights_folder(params.resolve().parent)
    table = Table("name", "status", "MB", "licence", title=str(folder), title_justify="left")
    table.add_column("from", overflow="fold")
    for file in list_weights(folder):
        entry = file.entry
        terms = f"{entry.license} (non-commercial)" if entry.non_commercial else entry.license
        table.add_row(entry.name, file.status, f"{entry.size / 1e6:.1f}", terms, str(entry.source))
    Console().print(table)


@weights_app.command("verify")
def verify_command(
    name: Annotated[str | None, typer.Argument(help="One file; without it, every file that is there.")] = None,
    params: Params = Path("params.yaml"),
) -> None:
    """Check the hashes of the files in the cache folder; exit code 2 when one is corrupt."""
    from stlm_core.steps.weights import verify_weights, weights_folder

    folder = weights_folder(params.resolve().parent)
    whole = verify_weights(folder, name)
    for file in whole:
        typer.echo(f"{file.entry.name}: ok ({file.path})")
    if not whole:
        typer.echo(
            f"{folder}: holds no weights yet; get those of profile `fast` with `stlm weights fetch efficientnet_lite0`"
        )
