"""One MLflow run for one export: parameters, curves, metrics, files, data set and the model."""

from __future__ import annotations

import csv
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes, sha256_file, write_json_atomic
from stlm_core.integrations.mlflow_client import Tracking
from stlm_core.integrations.mlflow_model import HASHES, save_model

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

ONNX_TAG = "stlm.onnx_sha256"
MODEL_TAG = "stlm.model_id"
SUPERSEDED_TAG = "stlm.superseded"
METRICS_A_REQUEST = 1000  # MLflow's limit, as is the next one
PARAMS_A_REQUEST = 100
_DIGEST_CHARACTERS = 36
_NOT_IN_A_NAME = re.compile(r"[^\w\-./ ]", re.ASCII)


@dataclass(frozen=True)
class RunContent:
    """Everything that is logged.

    ``curves``: prefix of the metric names -> CSV file with a column ``step`` and numeric ones. ``artifacts``: pairs of
    a file or folder and the folder it goes to in the run; "" for the top. ``dataset_source``: where the images are, as
    written in ``params.yaml``. ``signature``: that of ``model``, see :mod:`stlm_core.integrity`.
    """

    experiment: str
    run_name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Path]
    artifacts: Sequence[tuple[Path, str]]
    dataset_name: str
    dataset_sha256: str
    dataset_source: str
    tags: Mapping[str, str]
    model: bytes
    signature: str | None = None

    @property
    def onnx_sha256(self) -> str:
        """sha256 of the exported file."""
        return sha256_bytes(self.model)


@dataclass(frozen=True)
class LoggedRun:
    """A finished run and the model logged in it."""

    run_id: str
    experiment_id: str
    model_id: str


def finish_run(tracking: Tracking, content: RunContent) -> LoggedRun:
    """The finished run of this very file: an earlier one if there is one, otherwise a new one.

    A run that was begun for this file and never ended is marked as killed and superseded: what it holds cannot
    be trusted to be whole.

    Raises:
        UserError: a curve is not a table of numbers.
    """
    experiment_id = experiment_of(tracking, content.experiment)
    return earlier_run(tracking, experiment_id, content.onnx_sha256) or _log_run(tracking, experiment_id, content)


def earlier_run(tracking: Tracking, experiment_id: str, onnx_sha256: str) -> LoggedRun | None:
    """The finished run of that file, if there is one; what was begun and never ended is marked, see above."""
    for run in _runs_of(tracking, experiment_id, onnx_sha256):
        if run.info.status == "FINISHED" and (logged := _whole(tracking, run)) is not None:
            return logged
        if run.info.status == "RUNNING":
            tracking.client.set_tag(run.info.run_id, SUPERSEDED_TAG, "true")
            tracking.client.set_terminated(run.info.run_id, status="KILLED")
    return None


def _log_run(tracking: Tracking, experiment_id: str, content: RunContent) -> LoggedRun:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    client = tracking.client
    tags = {**content.tags, ONNX_TAG: content.onnx_sha256}
    run = client.create_run(experiment_id, tags=tags, run_name=content.run_name)
    run_id = run.info.run_id
    params = [Param(key, value) for key, value in sorted(content.params.items())]
    for part in in_parts(params, PARAMS_A_REQUEST):
        client.log_batch(run_id, params=part)
    for batch in in_parts(list(_metrics(content)), METRICS_A_REQUEST):
        client.log_batch(run_id, metrics=batch)
    dataset = Dataset(
        name=content.dataset_name,
        digest=content.dataset_sha256[:_DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": content.dataset_source}),
        profile=json.dumps({"sha256": content.dataset_sha256}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    for path, folder in content.artifacts:
        log = client.log_artifacts if path.is_dir() else client.log_artifact
        log(run_id, str(path), folder or None)
    with tempfile.TemporaryDirectory() as scratch:
        write_json_atomic(Path(scratch) / HASHES, _hashes(content.artifacts))
        client.log_artifact(run_id, str(Path(scratch) / HASHES))
    model_id = _log_model(tracking, experiment_id, run_id, content)
    client.set_tag(run_id, MODEL_TAG, model_id)
    client.set_terminated(run_id)
    return LoggedRun(run_id, experiment_id, model_id)


def _hashes(artifacts: Sequence[tuple[Path, str]]) -> dict[str, str]:
    """sha256 of every file, by its path in the run."""
    found = {}
    for path, folder in artifacts:
        for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
            name = file.relative_to(path if path.is_dir() else path.parent)
            found[(PurePosixPath(folder) / name.as_posix()).as_posix()] = sha256_file(file)
    return found


def _log_model(tracking: Tracking, experiment_id: str, run_id: str, content: RunContent) -> str:
    """Log the file as an MLflow model: one file, byte for byte the one that was proven."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    client = tracking.client
    logged = client.create_logged_model(experiment_id, name="model", source_run_id=run_id, model_type="onnx")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        save_model(
            path,
            content.model,
            Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            ),
            signature=content.signature,
        )
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    model_id: str = logged.model_id
    return model_id


def experiment_of(tracking: Tracking, name: str) -> str:
    """The id of the experiment called ``name``, which is made when it is not there.

    Raises:
        UserError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = _folder_in(tracking.artifact_root, name).as_uri() if tracking.artifact_root else None
        try:
            created: str = client.create_experiment(name, artifact_location=location)
            return created
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was faster
    if experiment is None or experiment.lifecycle_stage != "active":
        raise UserError(f"MLflow experiment `{name}` is deleted; restore it or set register.experiment to another name")
    experiment_id: str = experiment.experiment_id
    return experiment_id


def _folder_in(root: Path, name: str) -> Path:
    """Where the files of an experiment go: in ``root``, although its name may be ``/teams`` or ``../x``."""
    return root.joinpath(*(part for part in PurePosixPath(name).parts if part not in ("/", "//", "..")))


def _runs_of(tracking: Tracking, experiment_id: str, onnx_sha256: str) -> list[Run]:
    return list(tracking.client.search_runs([experiment_id], filter_string=f"tags.`{ONNX_TAG}` = '{onnx_sha256}'"))


def _whole(tracking: Tracking, run: Run) -> LoggedRun | None:
    from mlflow.entities import LoggedModelStatus
    from mlflow.exceptions import MlflowException

    model_id = run.data.tags.get(MODEL_TAG)
    if model_id is None:
        return None
    try:
        model = tracking.client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if model.status != LoggedModelStatus.READY:
        return None
    return LoggedRun(run.info.run_id, run.info.experiment_id, model_id)


def _metrics(content: RunContent) -> Iterator[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for name, value in content.metrics.items():
        yield Metric(name, float(value), now, 0)
    for prefix, path in content.curves.items():
        for step, values in read_curve(path):
            for column, value in values.items():
                yield Metric(f"{prefix}/{_NOT_IN_A_NAME.sub('_', column)}", value, now, step)


def read_curve(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Rows of a training curve: the step and the finite values of the other columns that are numbers.

    Raises:
        UserError: the file cannot be read or has no column ``step`` of whole numbers.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream), start=2):
                try:
                    step = int(float(row["step"]))
                except (KeyError, TypeError, ValueError, OverflowError):
                    raise UserError(f"{path}: line {number}: no whole number in a column `step`") from None
                yield (
                    step,
                    {
                        name: value
                        for name, text in row.items()
                        if name != "step" and (value := _number(text)) is not None
                    },
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a training curve: {error}") from None


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def in_parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    """``values`` in lists of at most ``size``."""
    return (values[start : start + size] for start in range(0, len(values), size))
