"""Every cell as a run of MLflow, in an SQLite file of the results folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.records import Record
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_run import PARAMS_A_REQUEST, experiment_of, in_parts

EXPERIMENT = "accuracy"
DATABASE = "mlflow.db"


def log_record(results: Path, record: Record) -> str:
    """Log one cell and return its run's id: settings as parameters, figures and costs as metrics, facts as tags."""
    from mlflow.entities import Metric, Param

    results.mkdir(parents=True, exist_ok=True)
    with open_tracking(results, f"sqlite:///{(results / DATABASE).absolute()}") as tracking:
        client = tracking.client
        experiment = experiment_of(tracking, EXPERIMENT)
        tags = {name: str(value) for name, value in flat(record.facts)}
        run = client.create_run(experiment, tags=tags, run_name=record.name)
        settings = {**record.settings, "line": record.line, "configuration": record.configuration, "seed": record.seed}
        params = [Param(name, str(value)) for name, value in flat(settings)]
        for part in in_parts(params, PARAMS_A_REQUEST):
            client.log_batch(run.info.run_id, params=part)
        metrics = [Metric(name, float(value), run.info.start_time, 0) for name, value in measured(record).items()]
        client.log_batch(run.info.run_id, metrics=metrics)
        client.set_terminated(run.info.run_id)
        run_id: str = run.info.run_id
        return run_id


def measured(record: Record) -> dict[str, float]:
    """The figures by the names they have in MLflow."""
    return {
        **{f"pseudo_{name}": value for name, value in record.pseudo.items()},
        **{f"test_{name}": value for name, value in record.test.items()},
        **{f"seconds_{step}": value for step, value in record.seconds.items()},
        "seconds": sum(record.seconds.values()),
        "peak_memory_mib": record.peak_memory_mib,
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested mappings; empty ones have nothing to say."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
