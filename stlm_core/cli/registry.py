"""``stlm promote``, ``reject`` and ``rollback``."""

from __future__ import annotations

from typing import Annotated

import typer

from stlm_core.cli.options import DEFAULT_PARAMS, Line, Params

KEPT_EXIT_CODE, HUMAN_EXIT_CODE = 3, 4

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen and change nothing.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the version.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; by default the user of this process.")]


def promote_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the rules say; needs --reason.")] = False,
    reason: Reason = "",
    by: By = None,
) -> None:
    """Put the line's challenger in service if it passes the gate.

    Exit code 0: it is in service, or already was; 3: the gate keeps the champion; 4: the gate cannot decide, a person
    has to: `--force --reason` is yes, `stlm reject` is no.
    """
    from stlm_core.config import load_line
    from stlm_core.steps.promote import promote

    result = promote(load_line(params, line), dry_run=dry_run, force=force, reason=reason, by=by)
    would = "would be " if dry_run else ""
    if result.outcome == "already":
        typer.echo(f"promote {line}: version {result.champion} is champion already")
        return
    if result.outcome == "promoted":
        replaced = f", replacing version {result.previous}" if result.previous is not None else ""
        typer.echo(f"promote {line}: version {result.champion} {would or 'is '}champion{replaced}")
    else:
        kept = f"champion {result.champion} stays" if result.champion is not None else "nothing is in service"
        verdict = f"{would or 'is '}kept back" if result.outcome == "kept" else "waits for a person"
        typer.echo(f"promote {line}: version {result.challenger} {verdict}, {kept}")
    for sentence in result.reasons:
        typer.echo(f"  - {sentence}")
    if result.outcome == "kept":
        raise typer.Exit(KEPT_EXIT_CODE)
    if result.outcome == "needs-human":
        typer.echo(
            f'yes: `stlm promote --line {line} --force --reason "..."`; no: `stlm reject --line {line} --reason ...`'
        )
        raise typer.Exit(HUMAN_EXIT_CODE)


def rollback_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    dry_run: DryRun = False,
    reason: Reason = "",
    by: By = None,
) -> None:
    """Put the line's previous champion back in service."""
    from stlm_core.config import load_line
    from stlm_core.steps.promote import rollback

    result = rollback(load_line(params, line), dry_run=dry_run, reason=reason, by=by)
    verb = "would be" if dry_run else "is"
    ended = "nothing was in service" if result.withdrawn is None else f"version {result.withdrawn} withdrawn"
    typer.echo(f"rollback {line}: version {result.champion} {verb} champion again, {ended}")


def reject_command(
    line: Line,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the version.")],
    params: Params = DEFAULT_PARAMS,
    by: By = None,
) -> None:
    """Say no to the line's challenger: the champion stays."""
    from stlm_core.config import load_line
    from stlm_core.steps.promote import reject

    number = reject(load_line(params, line), reason=reason, by=by)
    typer.echo(f"reject {line}: version {number} waits no longer")
