"""``python -m pipelines``: a line's pipelines on a Kubeflow cluster.

Commands import what they need when they run. `submit`, `schedule`, `retrain-all` and `start` speak to the API of
Kubeflow Pipelines; docs/kubeflow.md says how.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stlm_core.cli.options import DEFAULT_PARAMS, Force, Line, Params
from stlm_core.errors import StlmError

if TYPE_CHECKING:
    from pipelines.api import Kubeflow
    from pipelines.schedules import Change, Schedule

# The API's service in the cluster, as the manifests of Kubeflow name it.
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"

app = typer.Typer(
    help="The lines' pipelines on a Kubeflow cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
schedule_app = typer.Typer(help="One recurring run a line, as params.yaml says.", no_args_is_help=True)
app.add_typer(schedule_app, name="schedule")

Address = Annotated[str | None, typer.Option("--endpoint", help="Address of Kubeflow Pipelines; default KFP_ENDPOINT.")]
Namespace = Annotated[
    str, typer.Option("--namespace", envvar="KFP_NAMESPACE", help="A single-user backend ignores it.")
]
Experiment = Annotated[str, typer.Option("--experiment", help="KFP's group of runs.")]
Images = Annotated[list[str] | None, typer.Option("--image", help="NAME=REFERENCE: run this image; may be repeated.")]
OneLine = Annotated[str | None, typer.Option("--line", help="Only this product line.")]
Revision = Annotated[str, typer.Option("--revision", help="Published version of the line's images.")]
ClusterTimezone = Annotated[
    str,
    typer.Option("--cluster-timezone", envvar="KFP_TIMEZONE", help="The cluster's CRON_SCHEDULE_TIMEZONE."),
]


@app.command("submit")
def submit_command(
    line: Line,
    revision: Revision = "latest",
    force: Force = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run; exit code 1 when it fails.")] = False,
    endpoint: Address = None,
    namespace: Namespace = "stlm",
    experiment: Experiment = "stlm",
    image: Images = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Upload the line's training pipeline where it changed, and start a run."""
    from pipelines import submit
    from pipelines.jobs import chosen_images, training_job
    from stlm_core.config import load_line

    job = training_job(load_line(params, line), chosen_images(image or []), revision, force)
    kubeflow = _connect(endpoint, namespace)
    _follow(kubeflow, submit.submit(kubeflow, job, experiment, _say), wait)


@app.command("compile")
def compile_command(
    image: Images = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default pipelines/compiled.")] = None,
) -> None:
    """Write every pipeline as IR YAML, which any backend of Kubeflow Pipelines 2 takes."""
    from pipelines.compilation import COMPILED, write_compiled
    from pipelines.jobs import chosen_images

    folder = out or COMPILED
    changed = write_compiled(chosen_images(image or []), folder)
    _say(f"{folder}: {', '.join(path.name for path in changed) or 'nothing'} changed")


@app.command("picture")
def picture_command(
    name: Annotated[str, typer.Argument(help="File in pipelines/compiled, without .yaml.")] = "training-cpu",
    out: Annotated[
        Path | None, typer.Option("--out", help="Default docs/images/training_dag.svg; of others NAME.svg.")
    ] = None,
) -> None:
    """Draw a compiled pipeline: its tasks, images and groups, and what flows between them."""
    from pipelines.picture import DRAWN, PICTURE, picture_of

    path = out or (PICTURE if name == DRAWN else Path(f"{name}.svg"))
    path.write_text(picture_of(name), encoding="utf-8")
    _say(f"{path}: written")


@app.command("local")
def local_command(
    line: Line,
    force: Force = False,
    state: Annotated[Path, typer.Option("--state", help="Services' settings, outputs, cache.")] = Path(".stlm/local"),
    stop: Annotated[bool, typer.Option("--stop", help="Only stop the services; their data stay.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="With --stop: remove the services' data too.")] = False,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Run the line's compiled training pipeline in containers on this machine."""
    from pipelines.local import run_locally
    from pipelines.local_services import stop_services

    if stop:
        stop_services(state.resolve(), forget=forget)
    else:
        run_locally(params, line, state, force=force)


@app.command("retrain-all")
def retrain_all_command(
    line: Annotated[list[str] | None, typer.Option("--line", help="Only these lines; may be repeated.")] = None,
    force: Force = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run that starts the others.")] = False,
    endpoint: Address = None,
    namespace: Namespace = "stlm",
    experiment: Experiment = "stlm",
    image: Images = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Start a run of its own for every line, from inside the cluster."""
    from pipelines import submit
    from pipelines.jobs import chosen_images, retrain_all_job, training_job
    from stlm_core.config import line_names, load_line

    images = chosen_images(image or [])
    jobs = [training_job(load_line(params, name), images, force=force) for name in line or line_names(params)]
    kubeflow = _connect(endpoint, namespace)
    for name, ir in {job.pipeline: job.ir for job in jobs}.items():
        kubeflow.publish(name, ir)
    _follow(kubeflow, submit.submit(kubeflow, retrain_all_job(jobs, images, experiment), experiment, _say), wait)


@app.command("promote")
def promote_command(
    line: Line,
    by: Annotated[str, typer.Option("--by", help="Who decides; by default the run of the pipeline.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the version.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run; exit code 1 when it fails.")] = False,
    endpoint: Address = None,
    namespace: Namespace = "stlm",
    experiment: Experiment = "stlm",
    image: Images = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Judge the line's challenger in the cluster, and put it in service if it passes the gate."""
    from pipelines import submit
    from pipelines.jobs import chosen_images, promotion_job
    from stlm_core.config import load_line

    job = promotion_job(load_line(params, line), chosen_images(image or []), by, reason)
    kubeflow = _connect(endpoint, namespace)
    _follow(kubeflow, submit.submit(kubeflow, job, experiment, _say), wait)


@app.command("start", hidden=True)
def start_command(
    job: Annotated[str, typer.Option("--job", help="JSON: line, pipeline, arguments.")],
    request: Annotated[str, typer.Option("--request", help="The same for a repeated attempt.")],
    experiment: Experiment = "stlm",
    namespace: Namespace = "stlm",
) -> None:
    """Start a run of the newest version of a pipeline: what the component start_run does."""
    from pipelines.submit import parse_job, start

    kubeflow = _connect(os.environ.get("KFP_ENDPOINT") or IN_CLUSTER, namespace)
    _follow(kubeflow, start(kubeflow, parse_job(job), request, experiment), wait=False)


@schedule_app.command("apply")
def schedule_apply_command(
    line: OneLine = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    endpoint: Address = None,
    namespace: Namespace = "stlm",
    experiment: Experiment = "stlm",
    cluster_timezone: ClusterTimezone = "UTC",
    image: Images = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Create, replace and remove recurring runs until they are what params.yaml says."""
    from pipelines import schedules
    from pipelines.jobs import chosen_images, scheduled

    wanted = scheduled(params, chosen_images(image or []), cluster_timezone, line)
    kubeflow = _connect(endpoint, namespace)
    changes = _plan(kubeflow, experiment, list(wanted), line)
    if dry_run:
        _tell(changes)
    else:
        schedules.apply(kubeflow, changes, experiment, wanted, _say)


@schedule_app.command("diff")
def schedule_diff_command(
    line: OneLine = None,
    endpoint: Address = None,
    namespace: Namespace = "stlm",
    experiment: Experiment = "stlm",
    cluster_timezone: ClusterTimezone = "UTC",
    image: Images = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Say what apply would do; exit code 1 when that is anything."""
    from pipelines.jobs import chosen_images, scheduled

    wanted = scheduled(params, chosen_images(image or []), cluster_timezone, line)
    changes = _plan(_connect(endpoint, namespace), experiment, list(wanted), line)
    _tell(changes)
    if any(change.action != "keep" for change in changes):
        raise typer.Exit(1)


@schedule_app.command("remove")
def schedule_remove_command(
    line: OneLine = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    endpoint: Address = None,
    namespace: Namespace = "stlm",
    experiment: Experiment = "stlm",
) -> None:
    """Remove the recurring runs of one line, or all that `schedule apply` made; runs that are going on stay."""
    from pipelines import schedules

    kubeflow = _connect(endpoint, namespace)
    changes = _plan(kubeflow, experiment, [], line)
    if dry_run or not changes:
        _tell(changes)
    else:
        schedules.apply(kubeflow, changes, experiment, {}, _say)


def _connect(endpoint: str | None, namespace: str) -> Kubeflow:
    from pipelines.api import Kubeflow
    from pipelines.connection import Connection, Endpoint

    kubeflow = Kubeflow(Connection(Endpoint.from_environment(endpoint, namespace)))
    warning = kubeflow.check()
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    return kubeflow


def _plan(kubeflow: Kubeflow, experiment: str, wanted: list[Schedule], line: str | None) -> list[Change]:
    from pipelines import schedules

    experiment_id = kubeflow.find_experiment(experiment)
    found = schedules.ours(kubeflow.recurring_runs(experiment_id)) if experiment_id else []
    return schedules.plan(wanted, found, line)


def _tell(changes: list[Change]) -> None:
    for change in changes:
        _say(str(change))
    if not changes:
        _say("no schedules, wanted or made")


def _follow(kubeflow: Kubeflow, run: Any, wait: bool) -> None:
    from pipelines import submit

    _say(f"{run.display_name}: {submit.run_address(kubeflow.address, run.run_id)}")
    if wait:
        submit.wait(kubeflow, run.run_id, _say, every=float(os.environ.get("KFP_POLL_SECONDS", "10")))


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Run the command line; a failure is one sentence on standard error and exit code 2 (the user's) or 1 (ours)."""
    try:
        app(standalone_mode=True)
    except StlmError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted; what was started on the cluster goes on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
