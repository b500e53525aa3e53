"""``stlm sample`` and ``stlm lines``: images in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from stlm_core.cli.options import DEFAULT_OUTPUTS, DEFAULT_PARAMS, Outputs, Params

if TYPE_CHECKING:
    from stlm_core.steps.line_update import UpdatedLine

lines_app = typer.Typer(help="Add, update, list and remove product lines.", no_args_is_help=True)
_NAMED = 10

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


class _CommandWithFormats(TyperCommand):
    """Lists all formats below the help; they are only imported then."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from stlm_core.data.adapters import ADAPTERS

        typer.echo("Formats:")
        width = max(map(len, ADAPTERS))
        for name, adapter in ADAPTERS.items():
            typer.echo(f"  {name:<{width}}  {adapter.summary}{'' if adapter.masks else ' (no masks)'}")
        typer.echo()


@lines_app.command("add", cls=_CommandWithFormats)
def add_command(
    name: Name,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="The dataset's folder or table; elpv needs none if elpv_dataset is installed."),
    ] = None,
    layout: Annotated[str, typer.Option("--format", help="How the dataset is laid out, see below.")] = "mvtec",
    category: Annotated[
        str | None, typer.Option("--category", help="Which product, where the dataset holds several.")
    ] = None,
    copy: Annotated[
        bool,
        typer.Option("--copy/--reference", help="Copy the images to data/lines/NAME, or use them where they are."),
    ] = True,
    profile: Annotated[str, typer.Option("--profile", help="Profile of params.yaml the line starts from.")] = "fast",
    group_pattern: Annotated[
        str | None, typer.Option("--group-pattern", help="Regular expression; its group is the physical part's name.")
    ] = None,
    group_file: Annotated[
        Path | None, typer.Option("--group-file", help="CSV with the columns path and group, one row an image.")
    ] = None,
    licence: Annotated[str, typer.Option("--license", help="Licence of the images, for the model card.")] = "unknown",
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Leave out files that cannot be used, and list them.")
    ] = False,
    params: Params = DEFAULT_PARAMS,
    force: Annotated[
        bool, typer.Option("--force", help="Replace images, profile and data settings of that line.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be imported and write nothing.")] = False,
) -> None:
    """Read a dataset, catalogue its images, track them with DVC, and add the line to params.yaml."""
    from stlm_core.steps.line_add import NewLine, add_line

    line = NewLine(
        name, source, layout, profile, copy, category, group_pattern, group_file, licence, quarantine=quarantine
    )
    added = add_line(params, line, force=force, dry_run=dry_run)
    if dry_run:
        typer.echo("\n".join(added.report.lines()))
        typer.echo(added.entry, nl=False)
        typer.echo("dry run: nothing written")
        return
    left_out = f"; {len(added.report.problems)} in quarantine" if added.report.problems else ""
    typer.echo(
        f"lines: {name} added to {params} ({added.report.summary()}{left_out}); catalogue: {_shown(added.catalog)}"
    )
    for remark in added.report.remarks():
        typer.echo(remark)
    if not copy:
        typer.echo("the images stay where they are: DVC notices that they changed, but can bring no version back")
    _echo_tracking(added.tracked, added.tracking_problem, added.to_commit)
    typer.echo(f"next: stlm validate --line {name}, or dvc repro")
    if added.tracking_problem:
        raise typer.Exit(2)


@lines_app.command("update", cls=_CommandWithFormats)
def update_command(
    name: Name,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder or table of the new images; without, where the line came from."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--format", help="Its format; without, that of the line. Good images alone: folder.")
    ] = None,
    category: Annotated[str | None, typer.Option("--category", help="Which product, where there are several.")] = None,
    extend_test: Annotated[
        bool, typer.Option("--extend-test", help="Add new test images too: metrics are then not comparable any more.")
    ] = False,
    drop_missing: Annotated[
        bool,
        typer.Option("--drop-missing", help="With --reference: take out training images that are gone or changed."),
    ] = False,
    params: Params = DEFAULT_PARAMS,
    outputs: Outputs = DEFAULT_OUTPUTS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Append new images to a line; its test set stays as it is. Says whether it is time to train again."""
    import json

    from stlm_core.steps.line_update import Update, update_line

    update = Update(source, layout, category, extend_test, drop_missing)
    done = update_line(params, name, update, outputs, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(done.to_json(), indent=2))
    else:
        _echo_update(done)
    if done.tracking_problem:
        raise typer.Exit(2)


def _echo_update(done: UpdatedLine) -> None:
    would = "would be " if done.dry_run else ""
    if done.batch is None:
        typer.echo(f"lines: {done.line} unchanged, no new images ({done.known} known)")
    else:
        counts = f"{done.train} good training images and {done.test} test images {would}added as batch {done.batch}"
        dropped = f", {len(done.dropped)} {would}taken out" if done.dropped else ""
        typer.echo(f"lines: {done.line}: {counts}{dropped} ({done.known} known)")
    if done.new_groups:
        typer.echo(f"new groups: {len(done.new_groups)}: {_named(done.new_groups)}")
    if done.unread:
        typer.echo(f"in S3, not read by a dry run: {done.unread} images")
    for kind in sorted({each.kind for each in done.left_out}):
        those = [each for each in done.left_out if each.kind == kind]
        typer.echo(f"left out, {kind}: {len(those)}")
        for each in those[:_NAMED]:
            typer.echo(f"  {each.path}: {each.reason}")
        if len(those) > _NAMED:
            typer.echo(f"  and {len(those) - _NAMED} more")
    if done.test:
        typer.secho(
            f"THE TEST SET {'WOULD CHANGE' if done.dry_run else 'HAS CHANGED'}: metrics cannot be compared with those "
            "of earlier versions, the champion's among them",
            fg=typer.colors.RED,
            bold=True,
        )
    if done.refusal:
        typer.echo(f"the update would be refused: {done.refusal}")
    typer.echo(f"data version: {done.catalog_sha256[:12]}")
    if done.retraining.drift is not None:
        typer.echo(f"drift of the new images: {'; '.join(done.retraining.drift) or 'none'}")
    typer.echo(f"retraining is {'due' if done.retraining.due else 'not due'}: {'; '.join(done.retraining.reasons)}")
    if done.dry_run:
        typer.echo("dry run: nothing written")
    elif done.batch is not None:
        _echo_tracking(done.tracked, done.tracking_problem, done.to_commit)


def _shown(path: Path) -> str:
    """``path`` as the user would type it here."""
    import os

    return Path(os.path.relpath(path)).as_posix()


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _echo_tracking(tracked: Path | None, problem: str, commit: tuple[Path, ...]) -> None:
    """Say what DVC did and what to commit."""
    files = " ".join(map(_shown, commit))
    if problem:
        typer.secho(f"the line is complete, but DVC does not track its images: {problem}", err=True)
    typer.echo(f"{'tracked by DVC' if tracked else 'not tracked by DVC'}; to commit: git add {files}")


@lines_app.command("list")
def list_command(params: Params = DEFAULT_PARAMS) -> None:
    """Show all lines with their images' folder."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from stlm_core.steps.lines import list_lines

    table = Table("line", "profile", "format", "images", "batches", "DVC", "folder", "license")
    table.columns[6].overflow = "fold"
    for line in list_lines(params):
        path = line.path if line.present else f"{line.path} (missing)"
        images, batches = ("?", "") if line.images is None else (str(line.images), str(line.batches))
        tracked = "tracked" if line.tracked else ""
        table.add_row(
            *map(escape, (line.name, line.profile, line.layout, images, batches, tracked, path, line.license))
        )
    Console().print(table)


@lines_app.command("remove")
def remove_command(name: Name, params: Params = DEFAULT_PARAMS) -> None:
    """Take a line out of params.yaml; its images, catalogue, outputs and registered models stay."""
    from stlm_core.steps.lines import remove_line

    left = remove_line(params, name)
    typer.echo(f"lines: {name} removed from {params}" + "".join(f"; {folder} stays" for folder in left))
