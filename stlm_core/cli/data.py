"""``stlm sample``, ``stlm lines`` and ``stlm validate``: images in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stlm_core.cli.options import DEFAULT_OUTPUTS, DEFAULT_PARAMS, Force, Inputs, Line, Outputs, Params, open_line

lines_app = typer.Typer(help="Add, list and remove product lines.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the line: lower-case letters, digits, - and _.")]


def sample_command(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; an earlier sample line is replaced.")] = Path(
        "data/sample"
    ),
    seed: Annotated[int, typer.Option("--seed", help="Another seed makes another set of parts.")] = 0,
) -> None:
    """Make the procedural sample line: photographs of a turned flange, seven defect types, MVTec layout."""
    from stlm_core.data.sample_line import write_sample_line

    line = write_sample_line(out, seed)
    typer.echo(
        f"sample: {line.train_good} good training images, {line.test_good} good and {line.test_defects} defective "
        f"test images in {out} (seed {seed})"
    )


def validate_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    inputs: Inputs = None,
    force: Force = False,
) -> None:
    """Read every image of the line, check the rules, write the manifest and Data Docs."""
    from stlm_core.steps.validate import DOCS_FOLDER, validate

    result = validate(*open_line(line, params, outputs, inputs), force=force)
    typer.echo(f"validate {line}: {result.summary}")
    typer.echo(f"report: {result.folder / DOCS_FOLDER / 'index.html'}")


@lines_app.command("add")
def add_command(
    name: Name,
    source: Annotated[Path, typer.Option("--from", help="Folder of the line's images.")],
    layout: Annotated[
        str, typer.Option("--format", help="mvtec (train/good, test/*, ground_truth/*) or folder (good images only).")
    ] = "mvtec",
    profile: Annotated[str, typer.Option("--profile", help="Profile of params.yaml the line starts from.")] = "cpu",
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images beside params.yaml.")] = False,
    group_pattern: Annotated[
        str | None, typer.Option("--group-pattern", help="Regular expression; its group is the physical part's name.")
    ] = None,
    group_file: Annotated[
        Path | None, typer.Option("--group-file", help="CSV with the columns path and group, one row an image.")
    ] = None,
    licence: Annotated[str, typer.Option("--license", help="Licence of the images, for the model card.")] = "unknown",
    params: Params = DEFAULT_PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Replace profile and data settings of that line.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the entry and write nothing.")] = False,
) -> None:
    """Read a folder of images, record its manifest, and add the line to params.yaml."""
    from stlm_core.steps.lines import NewLine, add_line

    line = NewLine(name, source, layout, profile, copy, group_pattern, group_file, licence)
    added = add_line(params, line, force=force, dry_run=dry_run)
    counts = ", ".join(f"{count} {split}" for split, count in added.counts.items())
    if dry_run:
        typer.echo(added.entry, nl=False)
        typer.echo(f"dry run: nothing written; images: {counts}")
        return
    typer.echo(f"lines: {name} added to {params} ({counts}); manifest: {added.record}")
    typer.echo(f"next: stlm validate --line {name}, or dvc repro")


@lines_app.command("list")
def list_command(params: Params = DEFAULT_PARAMS) -> None:
    """Show all lines with their images' folder."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from stlm_core.steps.lines import list_lines

    table = Table("line", "profile", "format", "images", "license")
    table.columns[3].overflow = "fold"
    for line in list_lines(params):
        path = line.path if line.present else f"{line.path} (missing)"
        table.add_row(*map(escape, (line.name, line.profile, line.layout, path, line.license)))
    Console().print(table)


@lines_app.command("remove")
def remove_command(name: Name, params: Params = DEFAULT_PARAMS) -> None:
    """Take a line out of params.yaml; its images, outputs and registered models stay."""
    from stlm_core.steps.lines import remove_line

    left = remove_line(params, name)
    typer.echo(f"lines: {name} removed from {params}" + "".join(f"; its images stay in {folder}" for folder in left))
