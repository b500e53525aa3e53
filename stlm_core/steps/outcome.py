"""``stlm record-outcome``: how a pipeline run ended, as a run in MLflow beside the models it made."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_outcome import END_STATES, EndedRun, record_end
from stlm_core.integrations.versioning_failures import without_secrets

_LONGEST = 1000  # characters of a message that are kept, most of them from its end
_HEAD = 300
_LONGEST_NAME = 250
_ASSIGNED = re.compile(
    r"((?:password|passwd|secret|token|access_?key|credential|signature|authorization)[\w-]*[\"']?\s*[:=]\s*)"
    r"(?:(?:bearer|basic)\s+)?[\"']?[^\s\"'&,;]+",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY")


@dataclass(frozen=True)
class RunOutcome:
    """``run_id`` and ``run_name`` are the pipeline's; ``state`` as Kubeflow Pipelines says it, SUCCEEDED for example.

    ``message``: why it failed. ``failed_task``: the step that did. ``data_revision``: of the images it was about.
    """

    run_name: str
    run_id: str
    state: str
    message: str = ""
    failed_task: str = ""
    data_revision: str = ""


@dataclass(frozen=True)
class RecordedOutcome:
    """``run_id`` is MLflow's; ``status`` is FINISHED, FAILED or KILLED; ``created`` is False when it was there."""

    run_id: str
    experiment: str
    status: str
    created: bool


def record_outcome(line: str, outcome: RunOutcome, root: Path, experiment: str | None = None) -> RecordedOutcome:
    """Write the outcome into the line's experiment, as the run ``pipeline <run name>``; twice makes one run.

    Args:
        root: the project's folder, for a local database when ``MLFLOW_TRACKING_URI`` is not set.
        experiment: ``register.experiment``; None for ``stlm-<line>``.

    Raises:
        UserError: no run id or state, or MLflow does not answer.
    """
    if not outcome.run_id.strip() or not outcome.state.strip():
        raise UserError("--run-id and --state: must not be empty")
    state = outcome.state.strip().upper()[:_LONGEST_NAME]
    tags = {
        "line": line,
        "state": state,
        "message": shortened(without_credentials(outcome.message)),
        "failed_task": outcome.failed_task.strip()[:_LONGEST_NAME],
        "data_revision": outcome.data_revision.strip()[:_LONGEST_NAME],
    }
    name = f"pipeline {outcome.run_name.strip() or outcome.run_id.strip()}"[:_LONGEST_NAME]
    ended = EndedRun(
        experiment or f"stlm-{line}",
        name,
        outcome.run_id.strip()[:_LONGEST_NAME],
        END_STATES.get(state, "FAILED"),
        tags,
    )
    with open_tracking(root, models=False) as tracking:
        run_id, created = record_end(tracking, ended)
    return RecordedOutcome(run_id, ended.experiment, ended.status, created)


def without_credentials(message: str) -> str:
    """``message`` without values of the environment's secrets, user and password in addresses, and what follows a word
    for a secret and an equals sign or colon."""
    for name, value in os.environ.items():
        if len(value) > 3 and _SECRET_VARIABLE.search(name):
            message = message.replace(value, f"<{name}>")
    return _ASSIGNED.sub(r"\1<hidden>", without_secrets(message))


def shortened(message: str) -> str:
    """``message`` within the length that is kept: its start and, because reasons come last, more of its end."""
    message = message.strip()
    if len(message) <= _LONGEST:
        return message
    return f"{message[:_HEAD]} [...] {message[-(_LONGEST - _HEAD - 7) :]}"
