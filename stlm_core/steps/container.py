"""A pipeline step inside a container of Kubeflow Pipelines.

Names in a component's signature say what they are: a parameter named like a section of ``params.yaml`` is that section,
an artifact named as in :data:`ARTIFACTS` is the folder of that step, and ``images`` are the line's packed images.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stlm_core.config import SECTIONS, LineConfig, as_parameter, line_from_sections
from stlm_core.errors import StlmError, UserError
from stlm_core.files import read_json_object
from stlm_core.steps.executor import OutputArtifact, Task, read_task
from stlm_core.steps.packed_images import unpack_images
from stlm_core.steps.pipeline import run_one
from stlm_core.steps.workspace import STEPS, Workspace

Done = tuple[str, Mapping[str, Any]]  # what was done, one line, and the output parameters
Run = Callable[[Task, LineConfig, Workspace], Done]

# What the folder of a step is called as an artifact.
ARTIFACTS = {
    "manifest": "validate",
    "bank": "synthesize",
    "features": "cache-teacher",
    "streams": "distill",
    "detector": "train-fa",
    "evaluation": "evaluate",
    "onnx": "export",
    "registration": "register",
}
# Files of a step that KFP's interface shows by itself: artifact -> file in the step's folder.
_SHOWN = {
    "validate": {"report": "data_docs/index.html"},
    "evaluate": {"report": "report.html", "metrics": "metrics.json"},
    "export": {"card": "model_card.html"},
}


@contextmanager
def open_task(line: str, executor_input: str) -> Iterator[tuple[Task, LineConfig, Workspace]]:
    """The task, the line's settings and the folders, in a scratch project that goes with the context.

    Raises:
        UserError: not an executor input, a setting is wrong, or the packed images are damaged.
    """
    task = read_task(executor_input)
    root = Path(tempfile.mkdtemp(prefix="stlm-"))
    try:
        config = _config(line, task, root)
        if "images" in task.artifacts:
            unpack_images(task.artifact("images"), root)
        given = {name: paths[0] for name, paths in task.artifacts.items() if paths}
        made = {name: output.path for name, output in task.outputs.items()}
        overrides = {step: (given | made)[name] for name, step in ARTIFACTS.items() if name in given | made}
        yield task, config, Workspace(root / "outputs", line, overrides)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _config(line: str, task: Task, root: Path) -> LineConfig:
    sections = {name: task.parameters.get(name) for name in (*SECTIONS, "profile")}
    for name in SECTIONS:
        if not isinstance(sections[name], Mapping | None):
            raise UserError(f"--executor-input: parameter `{name}` is not a mapping of settings")
    try:
        return line_from_sections(line, sections, root)
    except (TypeError, AttributeError) as error:
        raise UserError(f"--executor-input: `null` of a section does not list settings of it: {error}") from None


def run_in_container(name: str, line: str, executor_input: str) -> str:
    """Run the task ``name`` (one of :data:`TASKS`) on what ``executor_input`` names, and describe its outputs to KFP.

    Returns:
        What it did, one line.

    Raises:
        UserError: see :func:`open_task` and the step; or no task has that name.
        StlmError: a folder cannot be read or written.
    """
    if name not in TASKS:
        raise UserError(f"no task `{name}`; there are {', '.join(TASKS)}")
    try:
        with open_task(line, executor_input) as (task, config, workspace):
            summary, parameters = TASKS[name](task, config, workspace)
            task.finish(parameters)
    except OSError as error:
        raise StlmError(f"{error.filename or name}: {error.strerror or error}") from error
    return summary


def _step(name: str) -> Run:
    """A step that needs nothing but settings and folders."""

    def run(task: Task, config: LineConfig, workspace: Workspace) -> Done:
        processes = task.number("gpus") if "gpus" in task.parameters else 1
        result = run_one(name, config, workspace, processes=processes)
        _show_all(name, task, result.folder)
        return result.summary, {}

    return run


def _show_all(name: str, task: Task, folder: Path) -> None:
    """Let KFP's interface show what it can of the step ``name``, whose outputs are in ``folder``."""
    for artifact, file in _SHOWN.get(name, {}).items():
        if artifact in task.outputs:
            _show(task.outputs[artifact], folder / file)


def _show(output: OutputArtifact, source: Path) -> None:
    """Let KFP's interface show a file of the step: a page as it is, metrics as a table of numbers."""
    output.path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, output.path)
    if source.suffix == ".json":
        measured = read_json_object(source, "run the step that makes it again").items()
        numbers = {key: value for key, value in measured if isinstance(value, int | float) and math.isfinite(value)}
        output.metadata.update(numbers)


def _cache_teacher_shard(task: Task, config: LineConfig, workspace: Workspace) -> Done:
    from stlm_core.steps.cache_teacher import cache_teacher_shard

    shard, shards, part = task.number("shard.index"), task.number("shard.count"), task.output("part").path
    result = cache_teacher_shard(config, workspace, shard, shards, part)
    return result.summary, {}


def _cache_teacher(task: Task, config: LineConfig, workspace: Workspace) -> Done:
    from stlm_core.steps.cache_teacher import merge_shards

    return merge_shards(config, workspace, task.artifacts.get("parts", ())).summary, {}


def _export(task: Task, config: LineConfig, workspace: Workspace) -> Done:
    from stlm_core.steps.export import export

    result = export(config, workspace, data_revision=str(task.need("data_revision")))
    _show_all("export", task, result.folder)
    return result.summary, {}


def _register(task: Task, config: LineConfig, workspace: Workspace) -> Done:
    from stlm_core.steps.register import REGISTRATION, register

    result = register(config, workspace, data_revision=str(task.need("data_revision")))
    record = read_json_object(result.folder / REGISTRATION, "register the model again")
    return result.summary, record


def _promote(task: Task, config: LineConfig, workspace: Workspace) -> Done:
    from stlm_core.promotion.candidate import decision_markdown
    from stlm_core.steps.promote import promote

    result = promote(
        config,
        by=str(task.need("by")) or f"pipeline {task.need('run_name')}",
        reason=str(task.parameters.get("reason", "")),
    )
    verdict = {
        "promoted": "is champion",
        "kept": "is kept back",
        "needs-human": "waits for a person",
        "already": "is champion already",
    }[result.outcome]
    number = result.champion if result.outcome == "already" else result.challenger
    summary = f"version {number} of line {config.name} {verdict}"
    if "decision" in task.outputs:
        path = task.outputs["decision"].path
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = f"# {summary}\n" if result.decision is None else decision_markdown(result.decision, summary)
        path.write_text(shown, encoding="utf-8")
    return summary, {"outcome": result.outcome}


def _check_freshness(task: Task, config: LineConfig, workspace: Workspace) -> Done:
    from stlm_core.steps.freshness import check_freshness

    found = check_freshness(config, revision=str(task.need("data_revision")), force=task.flag("force"))
    parameters = {
        "stale": found.stale,
        "reason": found.reason,
        "revision": found.data_revision,
        "data": as_parameter(found.data),
        "champion": found.champion,
    }
    return found.reason, parameters


def _fetch_images(task: Task, config: LineConfig, workspace: Workspace) -> Done:
    from stlm_core.steps.fetch_images import fetch_images

    fetched = fetch_images(
        config.name,
        task.output("images").path,
        revision=str(task.need("data_revision")),
        champion=str(task.need("champion")),
    )
    return f"{fetched.files} files, {fetched.bytes / 1e6:.1f} MB of version {fetched.revision}", {}


def _record_outcome(task: Task, config: LineConfig, workspace: Workspace) -> Done:
    from stlm_core.steps.outcome import RunOutcome, record_outcome

    status = task.need("status")
    if not isinstance(status, dict):
        raise UserError("--executor-input: parameter `status` is not the final status of a task")
    error = status.get("error")
    outcome = RunOutcome(
        run_name=str(task.need("run_name")),
        run_id=str(task.need("run_id")),
        state=str(status.get("state", "")),
        message=str(error.get("message", "")) if isinstance(error, dict) else "",
        # A cluster says pipelineTaskName, kfp.local pipeline_task_name.
        failed_task=_failed_task(str(status.get("pipelineTaskName") or status.get("pipeline_task_name") or "")),
    )
    recorded = record_outcome(config.name, outcome, config.root, config.register_.experiment)
    return f"run {outcome.run_name} of line {config.name}: {recorded.status}", {}


def _failed_task(name: str) -> str:
    """``name``, unless it is the whole group before the exit handler, which is all that a cluster knows."""
    return "" if name.startswith("exit-handler-") else name


TASKS: Mapping[str, Run] = {
    **{step: _step(step) for step in STEPS},
    "cache-teacher-shard": _cache_teacher_shard,
    "cache-teacher": _cache_teacher,
    "export": _export,
    "register": _register,
    "check-freshness": _check_freshness,
    "fetch-images": _fetch_images,
    "promote": _promote,
    "record-outcome": _record_outcome,
}
