"""``stlm check-freshness``, ``fetch-images`` and ``record-outcome``: what a run on a cluster does beside the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stlm_core.cli.options import DEFAULT_PARAMS, Line, Params

Revision = Annotated[str, typer.Option("--revision", help="Version of the images, as `stlm data publish` names it.")]
Url = Annotated[str | None, typer.Option("--from", help="Where versions are published; by default STLM_DATA_URL.")]


def check_freshness_command(
    line: Line,
    params: Params = DEFAULT_PARAMS,
    revision: Revision = "latest",
    force: Annotated[bool, typer.Option("--force", help="Train even if nothing changed.")] = False,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say whether images, settings or code have changed since the line's model was made. Exit code 0 in both cases."""
    import json

    from stlm_core.config import load_line
    from stlm_core.steps.freshness import check_freshness

    found = check_freshness(load_line(params, line), revision=revision, force=force, url=url)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    typer.echo(f"check-freshness {line}: {'train' if found.stale else 'nothing to do'}: {found.reason}")


def fetch_images_command(
    line: Line,
    out: Annotated[Path, typer.Option("--out", help="The tar file to write.")],
    revision: Revision = "latest",
    champion: Annotated[
        str, typer.Option("--champion", help="Number of the version in service, to measure drift against.")
    ] = "",
    url: Url = None,
    scratch: Annotated[
        Path | None, typer.Option("--scratch", help="Folder to work in, kept so that another run continues.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Transfers at once.")] = None,
) -> None:
    """Get a published version of a line's images as one file; needs neither git nor the project."""
    from stlm_core.steps.fetch_images import fetch_images

    done = fetch_images(line, out, revision=revision, champion=champion, url=url, scratch=scratch, jobs=jobs)
    drift = f", with the statistics of version {champion}" if done.reference else ""
    typer.echo(
        f"fetch-images {line}: version {done.revision}, {done.files} files, {done.bytes / 1e6:.1f} MB{drift} in {out}"
    )


def record_outcome_command(
    line: Line,
    run_name: Annotated[str, typer.Option("--run-name", help="What the pipeline's run is called.")],
    run_id: Annotated[str, typer.Option("--run-id", help="The pipeline's id of the run; recorded once.")],
    state: Annotated[str, typer.Option("--state", help="How it ended: SUCCEEDED, FAILED, CANCELED.")],
    message: Annotated[str, typer.Option("--message", help="Why it failed.")] = "",
    failed_task: Annotated[str, typer.Option("--failed-task", help="The step that failed.")] = "",
    data_revision: Annotated[str, typer.Option("--data-revision", help="Version of the images.")] = "",
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Write into MLflow how a run of the pipeline ended."""
    from stlm_core.config import load_line
    from stlm_core.steps.outcome import RunOutcome, record_outcome

    config = load_line(params, line)
    outcome = RunOutcome(run_name, run_id, state, message, failed_task, data_revision)
    done = record_outcome(line, outcome, config.root, config.register_.experiment)
    how = "recorded" if done.created else "was recorded already"
    typer.echo(f"record-outcome {line}: {run_name} {how} as {done.status} in {done.experiment}, run {done.run_id}")
