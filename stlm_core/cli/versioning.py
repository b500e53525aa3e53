"""``stlm data``: versions of the lines' data on a remote."""

from __future__ import annotations

from typing import Annotated

import typer

from stlm_core.cli.options import DEFAULT_PARAMS, Params

data_app = typer.Typer(help="Send the lines' data to a remote, get them back, compare.", no_args_is_help=True)

Line = Annotated[str | None, typer.Option("--line", help="One line's data; without it, all that DVC tracks.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Transfers at once; default: the remote's setting.")
]


@data_app.command("remote")
def remote_command(
    url: Annotated[str, typer.Argument(help="A folder, or s3://bucket/prefix.")],
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Address of an S3 server other than Amazon's, https://host:port.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What DVC calls it.")] = "storage",
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Choose where the data's versions are kept; credentials come from the environment, never from here."""
    from stlm_core.steps.versioning import set_remote

    typer.echo(
        f"data: {set_remote(params, url, endpoint, name)} is the default; commit .dvc/config, then stlm data push"
    )


@data_app.command("push")
def push_command(line: Line = None, jobs: Jobs = None, params: Params = DEFAULT_PARAMS) -> None:
    """Send what the remote lacks; after an interruption, run it again."""
    from stlm_core.steps.versioning import push_data

    moved = push_data(params, line, jobs)
    typer.echo(
        f"data: {moved.files} files pushed to {moved.remote}" if moved.files else f"data: {moved.remote} has all"
    )


@data_app.command("pull")
def pull_command(line: Line = None, jobs: Jobs = None, params: Params = DEFAULT_PARAMS) -> None:
    """Get what is missing here, with its hashes checked; after an interruption, run it again."""
    from stlm_core.steps.versioning import pull_data

    moved = pull_data(params, line, jobs)
    typer.echo(f"data: {moved.files} files fetched from {moved.remote}" if moved.files else "data: everything is here")


@data_app.command("publish")
def publish_command(
    line: Annotated[str, typer.Option("--line", help="Product line, as named in params.yaml.")],
    to: Annotated[
        str | None, typer.Option("--to", help="A folder, or s3://bucket/prefix; by default STLM_DATA_URL.")
    ] = None,
    jobs: Jobs = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Push a line's images, then tell a cluster of this version; after an interruption, run it again."""
    from stlm_core.steps.publish import publish_line

    done = publish_line(params, line, to, jobs)
    how = "published" if done.uploaded else "was published already, nothing to upload"
    pushed = f", {done.pushed} files pushed to {done.remote}" if done.pushed else ""
    typer.echo(f"data: {line} version {done.revision} {how}: {done.url}{pushed}")


@data_app.command("status")
def status_command(
    line: Annotated[str | None, typer.Option("--line", help="One line.")] = None,
    remote: Annotated[bool, typer.Option("--remote/--no-remote", help="Compare with the remote too.")] = True,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Show per line whether its data are tracked, as committed, and on the remote."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from stlm_core.steps.versioning import data_state

    table = Table("line", "data", "workspace", "to push", "to pull")
    table.columns[1].overflow = "fold"
    for row in data_state(params, line, remote):
        counts = [None, None] if row.state is None else [row.state.to_push, row.state.to_pull]
        shown = ["-" if count is None else str(count) for count in counts]
        table.add_row(escape(row.line), escape(row.path), row.state.workspace if row.state else "not tracked", *shown)
    Console().print(table)
