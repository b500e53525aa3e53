"""A version taken out of one registry and put into another, with every file checked on both sides.

The two are never open at once: MLflow has one current address for a process. So a version is fetched into a folder,
and delivered from there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stlm_core.errors import StlmError
from stlm_core.files import sha256_file, write_json_atomic
from stlm_core.integrations.mlflow_client import Tracking
from stlm_core.integrations.mlflow_model import HASHES
from stlm_core.integrations.mlflow_registry import Registry, Version, store_of_files
from stlm_core.integrations.mlflow_run import (
    METRICS_A_REQUEST,
    MODEL_TAG,
    PARAMS_A_REQUEST,
    SUPERSEDED_TAG,
    LoggedRun,
    earlier_run,
    experiment_of,
    in_parts,
)
from stlm_core.integrations.names import MODEL_FILE

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

_RECORDS = "copied"
_META = "registered_model_meta"  # MLflow adds it to what it fetches


@dataclass(frozen=True)
class Parcel:
    """A version outside of any registry.

    ``run``: what MLflow's database has of its run; ``points``: its metrics with all their steps. ``artifacts`` and
    ``model`` are folders, of the run and of its model. ``hashes``: sha256 of every file, by its path below the folder
    that holds both.
    """

    version: Version
    description: str
    run: Run
    points: tuple[Metric, ...]
    artifacts: Path
    model: Path
    hashes: Mapping[str, str]


def fetch_version(tracking: Tracking, registry: Registry, version: Version, folder: Path) -> Parcel:
    """Fetch a version with its run into ``folder``.

    The ONNX file is held against the tag ``onnx_sha256``, every other file against the list that was made when it was
    registered; a run's files that came later are on no list.

    Raises:
        StlmError: the run is gone, or a file is missing, cannot be fetched, or is not the one that was registered.
    """
    client, artifacts, model = tracking.client, folder / "run", folder / "model"
    where = f"{registry.name} version {version.number} in {tracking.store}"
    run = client.get_run(version.run_id)
    _fetch_run(tracking, version.run_id, artifacts, where)
    _fetch_model(f"models:/{registry.name}/{version.number}", model, where)
    found = _hashes(model)
    if found.get(MODEL_FILE) != version.tags.get("onnx_sha256"):
        raise StlmError(f"{where}: {MODEL_FILE} is not the file that was registered; it was changed or damaged")
    _check(model, found, f"{where}: model", whole=True)
    _check(artifacts, _hashes(artifacts), f"{where}: run", whole=False)
    return Parcel(
        version=version,
        description=client.get_model_version(registry.name, str(version.number)).description or "",
        run=run,
        points=tuple(
            point for name in sorted(run.data.metrics) for point in client.get_metric_history(version.run_id, name)
        ),
        artifacts=artifacts,
        model=model,
        hashes=_hashes(folder),
    )


def deliver_run(tracking: Tracking, parcel: Parcel, experiment: str, came_from: Mapping[str, str]) -> LoggedRun:
    """Put the run and its model into this registry's experiment; a finished run of the same file is taken instead.

    What arrived is fetched again and compared before the model counts as ready and the run as finished: one that was
    killed on the way is marked and made anew by the next call.

    Args:
        came_from: tags that say so; they go to the run with the prefix ``stlm.``.

    Raises:
        StlmError: what arrived differs from what was sent.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Param

    client, original = tracking.client, parcel.run
    experiment_id = experiment_of(tracking, experiment)
    done = earlier_run(tracking, experiment_id, parcel.version.tags["onnx_sha256"])
    if done is not None:
        return done
    record = parcel.artifacts / _RECORDS / f"from-{original.info.run_id}.json"
    record.parent.mkdir(exist_ok=True)
    write_json_atomic(record, {**came_from, "sha256": dict(parcel.hashes)})

    run_id = client.create_run(
        experiment_id,
        start_time=original.info.start_time,
        tags={**_own_tags(original), **{f"stlm.{name}": value for name, value in came_from.items()}},
        run_name=original.info.run_name,
    ).info.run_id
    for params in in_parts([Param(*pair) for pair in original.data.params.items()], PARAMS_A_REQUEST):
        client.log_batch(run_id, params=params)
    for metrics in in_parts(list(parcel.points), METRICS_A_REQUEST):
        client.log_batch(run_id, metrics=metrics)
    if original.inputs and original.inputs.dataset_inputs:
        client.log_inputs(run_id, original.inputs.dataset_inputs)
    client.log_artifacts(run_id, str(parcel.artifacts))
    logged = client.create_logged_model(experiment_id, name="model", source_run_id=run_id, model_type="onnx")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    client.log_model_artifacts(logged.model_id, str(parcel.model))
    _check_arrival(tracking, run_id, logged.model_id, parcel)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.set_tag(run_id, MODEL_TAG, logged.model_id)
    client.set_terminated(run_id, end_time=original.info.end_time)
    return LoggedRun(run_id, experiment_id, logged.model_id)


def _own_tags(run: Run) -> dict[str, str]:
    """Without those that MLflow sets, and those that are about the run's place in its own registry."""
    left = {MODEL_TAG, SUPERSEDED_TAG}
    return {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.") and name not in left}


def _check_arrival(tracking: Tracking, run_id: str, model_id: str, parcel: Parcel) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run, model = Path(scratch) / "run", Path(scratch) / "model"
        _fetch_run(tracking, run_id, run, tracking.store)
        _fetch_model(f"models:/{model_id}", model, tracking.store)
        for sent, arrived, what in ((parcel.artifacts, run, "run"), (parcel.model, model, "model")):
            expected, found = _hashes(sent), _hashes(arrived)
            wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
            if wrong:
                raise StlmError(f"{tracking.store}: {what} file {wrong[0]} did not arrive as it was sent; run it again")


def _fetch_run(tracking: Tracking, run_id: str, folder: Path, where: str) -> None:
    with store_of_files(f"{where}: the run's files cannot be fetched"):
        folder.mkdir(parents=True)
        tracking.client.download_artifacts(run_id, "", str(folder))


def _fetch_model(uri: str, folder: Path, where: str) -> None:
    import mlflow.artifacts

    with store_of_files(f"{where}: the model's files cannot be fetched"):
        folder.mkdir(parents=True)
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
        (folder / _META).unlink(missing_ok=True)


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below ``folder``, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _check(folder: Path, found: Mapping[str, str], where: str, *, whole: bool) -> None:
    """Against the list in the folder; one of an older version has none. ``whole``: no other file may be there."""
    path = folder / HASHES
    if not path.is_file():
        return
    try:
        expected = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise StlmError(f"{where} file {HASHES} is damaged") from None
    wrong = sorted(name for name, sha256 in expected.items() if found.get(name) != sha256)
    if wrong:
        raise StlmError(f"{where} file {wrong[0]} is not the one that was registered; it was changed or damaged")
    extra = sorted(set(found) - set(expected) - {HASHES})
    if whole and extra:
        raise StlmError(f"{where} file {extra[0]} is none of those that were registered")
