"""``stlm status``, ``history`` and ``copy``: what is in service, how it came to be, and where else it goes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stlm_core.cli.options import DEFAULT_PARAMS, Line, Params

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.table import Table

    from stlm_core.steps.registry_history import Event
    from stlm_core.steps.registry_status import LineStatus, VersionStatus

_WIDTH = 120  # characters, where no terminal says how wide it is
_LONGEST_LINE, _LONGEST_WHY = 24, 240
_CHALLENGERS = {"waiting": "challenger", "kept": "kept back", "needs-human": "needs a person"}

_WHERE = "MLflow's address; the project's own where not given."

Json = Annotated[bool, typer.Option("--json", help="As JSON, with everything that is known.")]


def status_command(params: Params = DEFAULT_PARAMS, as_json: Json = False) -> None:
    """Show every line's champion, its challenger and the last pipeline run.

    A champion's age counts from its promotion, a challenger's from when it was registered, kept back or handed to a
    person.
    """
    from stlm_core.steps.registry_status import status

    found = status(params.resolve().parent, _experiments(params))
    if as_json:
        typer.echo(json.dumps([each.to_json() for each in found], indent=2))
        return
    _print(_status_table(found, datetime.now(UTC)))


def history_command(line: Line, params: Params = DEFAULT_PARAMS, as_json: Json = False) -> None:
    """Show all versions of a line and what became of them, the newest first."""
    from rich.markup import escape
    from rich.table import Table

    from stlm_core.config import load_line
    from stlm_core.steps.registry_history import history

    found = history(load_line(params, line))
    if as_json:
        typer.echo(json.dumps([each.to_json() for each in found], indent=2))
        return
    table = Table("version", "when (UTC)", "what", "by", "why")
    for version in found:
        name = " ".join([str(version.version), *version.aliases])
        for event in version.events:
            table.add_row(name, event.at[:16].replace("T", " "), _what(event), escape(event.by), escape(_why(event)))
            name = ""
        table.add_section()
    _print(table)


def copy_command(
    line: Line,
    source: Annotated[str | None, typer.Option("--from", envvar="STLM_COPY_FROM", help=_WHERE)] = None,
    target: Annotated[str | None, typer.Option("--to", envvar="STLM_COPY_TO", help=_WHERE)] = None,
    alias: Annotated[str, typer.Option("--alias", help="Which version of the source.")] = "champion",
    version: Annotated[int | None, typer.Option("--version", min=1, help="Its number instead.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who copies; by default the user of this process.")] = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Copy a version from one registry to another, where it becomes the challenger.

    Every file is checked before it is sent and after it arrived. User and password belong into the two environment
    variables, not into the command.
    """
    from stlm_core.config import load_line
    from stlm_core.steps.registry_copy import copy_version

    result = copy_version(load_line(params, line), source=source, target=target, alias=alias, number=version, by=by)
    verb = "copied as" if result.outcome == "copied" else "is there already as"
    points = f", {result.alias}" if result.alias else ""
    typer.echo(
        f"copy {line}: version {result.source_version} of {result.source} {verb} version {result.target_version} of "
        f"{result.target}{points}"
    )


def _experiments(params: Path) -> dict[str, str | None]:
    """Line -> its ``register.experiment``; a line whose settings are wrong is shown too, under its usual name."""
    from stlm_core.config import line_names, load_line
    from stlm_core.errors import UserError

    found: dict[str, str | None] = {}
    for line in line_names(params):
        try:
            found[line] = load_line(params, line).register_.experiment
        except UserError:
            found[line] = None
    return found


def _status_table(lines: Iterable[LineStatus], now: datetime) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("line", "version", "age", "AUROC", "AUPRO", "recall", "data", "drift", "last pipeline run")
    for line in lines:
        name = escape(_shortened(line.line))
        ended = escape(_last_run(line, now))
        rows = [version for version in (line.champion, line.challenger) if version is not None]
        for version in rows:
            table.add_row(name, *_cells(version, now), ended)
            name = ended = ""
        if not rows:
            table.add_row(name, "none", *["-"] * 6, ended)
    return table


def _cells(version: VersionStatus, now: datetime) -> tuple[str, ...]:
    kind = "champion" if version.state == "champion" else _CHALLENGERS[version.state]
    drift = "-" if version.drift is None else f"{version.drift:.2f}"
    return (
        f"{version.version} {kind}",
        _age(version.since, now),
        *(_figure(version.metrics, name) for name in ("image_auroc", "aupro_30", "recall_at_budget")),
        version.data_revision[:8] or "-",
        drift,
    )


def _figure(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.4f}" if name in metrics else "-"


def _last_run(line: LineStatus, now: datetime) -> str:
    run = line.last_run
    if run is None:
        return "-"
    where = f" in {run.failed_task}" if run.failed_task else ""
    since = datetime.fromtimestamp(run.recorded_ms / 1000, UTC).isoformat()
    return f"{run.state.lower()}{where}, {_age(since, now)} ago"


def _age(since: str, now: datetime) -> str:
    """How long ago, in the largest unit of which at least two have passed."""
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        return "-"
    passed = now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if passed >= 2 * length:
            return f"{passed // length} {unit}"
    return f"{max(0, passed // timedelta(seconds=1))} s"


def _what(event: Event) -> str:
    about = {"promoted": "promoted, replacing {}", "replaced": "replaced by {}", "restored": "back in place of {}"}
    words = {"kept": "kept back", "needs-human": "needs a person", "rolled-back": "rolled back"}
    if event.of is not None and event.kind in about:
        return about[event.kind].format(event.of)
    return words.get(event.kind, event.kind)


def _why(event: Event) -> str:
    why = " ".join(event.why.split())
    return why if len(why) <= _LONGEST_WHY else f"{why[: _LONGEST_WHY - 1]}…"


def _shortened(name: str) -> str:
    """Of a long name both ends tell: plants number their lines."""
    if len(name) <= _LONGEST_LINE:
        return name
    tail = _LONGEST_LINE // 3
    return f"{name[: _LONGEST_LINE - tail - 1]}…{name[-tail:]}"


def _print(table: Table) -> None:
    from rich.console import Console

    Console(width=None if Console().is_terminal else _WIDTH).print(table)
