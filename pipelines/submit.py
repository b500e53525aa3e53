"""Runs of lines: start one, follow it, say what failed."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.api import Kubeflow
from pipelines.connection import Unavailable
from stlm_core.errors import StlmError, UserError

SERVICE_ACCOUNT = "stlm-pipeline"
LAUNCH_ACCOUNT = "stlm-launch"  # may start runs
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
# Seconds without an answer after which following a run is given up; the run itself goes on.
PATIENCE = 600.0
# What KFP puts around a pipeline's own tasks: pods, drivers, groups.
_AROUND = re.compile(
    r"|executor|root|driver|.*-driver|system-.*|(exit-handler|condition(-branches)?|for-loop|iteration.*)-\d+"
)


@dataclass(frozen=True)
class Job:
    """``line`` is run by ``pipeline``, named as on the cluster, whose IR YAML is ``ir``, with ``arguments``."""

    line: str
    pipeline: str
    ir: str
    arguments: dict[str, Any]


def parse_job(text: str) -> dict[str, Any]:
    """A job as `retrain-all` hands it over.

    Raises:
        UserError: it is no JSON object with ``line``, ``pipeline`` and ``arguments``.
    """
    kinds = {"line": str, "pipeline": str, "arguments": dict}
    try:
        job = json.loads(text)
    except ValueError as error:
        raise UserError(f"--job: not JSON: {error}") from None
    if not isinstance(job, dict) or any(not isinstance(job.get(key), kind) for key, kind in kinds.items()):
        raise UserError("--job: must be an object with the texts `line` and `pipeline` and the object `arguments`")
    return job


def run_name(line: str, now: datetime | None = None) -> str:
    """A name for a run that no other has."""
    return f"stlm-{line}-{now or datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def run_address(endpoint: str, run_id: str) -> str:
    """The run's page; KFP_UI_ENDPOINT names the user interface where it is not at the API's address."""
    return f"{os.environ.get('KFP_UI_ENDPOINT', endpoint).rstrip('/')}/#/runs/details/{run_id}"


def submit(kubeflow: Kubeflow, job: Job, experiment: str, say: Callable[[str], None]) -> Any:
    """Upload the job's pipeline where the server lacks it, and start a run."""
    reference, uploaded = kubeflow.publish(job.pipeline, job.ir)
    say(f"{job.pipeline}: {'uploaded as a new version' if uploaded else 'unchanged'}")
    account = LAUNCH_ACCOUNT if job.pipeline.endswith("retrain-all") else SERVICE_ACCOUNT
    return kubeflow.start(run_name(job.line), reference, job.arguments, kubeflow.experiment(experiment), account)


def start(kubeflow: Kubeflow, job: dict[str, Any], request: str, experiment: str) -> Any:
    """One run of the newest version of ``job["pipeline"]``, or the one that an earlier attempt of ``request`` started.

    Args:
        job: ``line``, ``pipeline`` (the name on the cluster) and ``arguments``.
        request: a name for the wish; a container that is started again has the same.
    """
    name = f"stlm-{job['line']}-{request}"
    experiment_id = kubeflow.experiment(experiment)
    earlier = kubeflow.find_run(name, experiment_id)
    if earlier is not None:
        return earlier
    reference = kubeflow.newest_version(job["pipeline"])
    return kubeflow.start(name, reference, job["arguments"], experiment_id, SERVICE_ACCOUNT)


def wait(kubeflow: Kubeflow, run_id: str, say: Callable[[str], None], every: float = 10.0) -> None:
    """Follow a run to its end, with a line for every change.

    Raises:
        StlmError: the run did not succeed; the message names the tasks that failed.
        Unavailable: the server has not answered for :data:`PATIENCE` seconds.
    """
    began = heard = time.monotonic()
    last = ""
    while True:
        try:
            run = kubeflow.run(run_id)
        except Unavailable as error:
            if time.monotonic() - heard > PATIENCE:
                raise Unavailable(f"{error}; the run goes on without this command") from None
        else:
            heard = time.monotonic()
            line = _progress(run)
            if line != last:
                elapsed = int(heard - began)
                say(f"{elapsed // 3600:02d}:{elapsed // 60 % 60:02d}:{elapsed % 60:02d} {line}")
            last = line
            if run.state in ENDED:
                break
        time.sleep(every)
    if run.state != "SUCCEEDED":
        raise StlmError(f"run {run.display_name} ended as {run.state}{_failures(run)}")


def _tasks(run: Any) -> list[Any]:
    return (run.run_details.task_details or []) if run.run_details else []


def _progress(run: Any) -> str:
    tasks = [task for task in _tasks(run) if not _AROUND.fullmatch(task.display_name or "")]
    running = sorted({task.display_name for task in tasks if task.state == "RUNNING"})
    done = sum(task.state in ENDED for task in tasks)
    return f"{run.state or 'PENDING'}, {done} tasks done{', running: ' + ', '.join(running) if running else ''}"


def _failures(run: Any) -> str:
    """Which tasks failed, and why as far as the API says.

    A backend of 2.17 also marks everything around a failed container, does not say what is inside what, and gives no
    error text.
    """
    failed: dict[str, str] = {}
    around: dict[str, str] = {}
    for task in _tasks(run):
        if task.state == "FAILED":
            name = task.display_name or ""
            group = around if _AROUND.fullmatch(name) and not name.endswith("-driver") else failed
            name = name.removesuffix("-driver") or "a task without a name"
            group[name] = group.get(name) or _error(task)
    reason = f" ({run.error.message})" if run.error and run.error.message else ""
    if not failed and not around:
        return f"{reason}; the server names no failed task"
    silent = "no error text from the server, see its log"
    told = ", ".join(f"{name}: {error or silent}" for name, error in (failed or around).items())
    return f"{reason}; failed: {told}"


def _error(task: Any) -> str:
    """The task's error, or the last one of its history."""
    if task.error and task.error.message:
        return str(task.error.message)
    history = [status.error.message for status in task.state_history or [] if status.error and status.error.message]
    return str(history[-1]) if history else ""
