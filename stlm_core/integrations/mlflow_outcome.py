"""One MLflow run for one run of a pipeline: how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import Tracking
from stlm_core.integrations.mlflow_run import experiment_of

PIPELINE_TAG = "stlm.pipeline_run_id"
# States of a run -> MLflow's; any other is FAILED. An exit handler on a cluster gets the state that the backend keeps
# of the tasks before it: COMPLETE or CACHED, and still RUNNING where a condition left out the last of them. A task that
# failed makes it FAILED at once.
END_STATES = {
    "SUCCEEDED": "FINISHED",
    "COMPLETE": "FINISHED",
    "CACHED": "FINISHED",
    "RUNNING": "FINISHED",
    "SKIPPED": "FINISHED",
    "CANCELED": "KILLED",
    "CANCELLED": "KILLED",
    "CANCELING": "KILLED",
}


@dataclass(frozen=True)
class EndedRun:
    """``status``: FINISHED, FAILED or KILLED. ``tags`` that are "" are left out."""

    experiment: str
    name: str
    pipeline_run_id: str
    status: str
    tags: Mapping[str, str]


def record_end(tracking: Tracking, ended: EndedRun) -> tuple[str, bool]:
    """The id of the run for this pipeline run, and whether it is new; one that is there gets the tags and the status.

    Raises:
        UserError: the experiment is deleted, or the id cannot be searched for.
    """
    if "'" in ended.pipeline_run_id:
        raise UserError(f"run id {ended.pipeline_run_id!r}: a quote in it")
    client = tracking.client
    experiment_id = experiment_of(tracking, ended.experiment)
    found = client.search_runs(
        [experiment_id],
        filter_string=f"tags.`{PIPELINE_TAG}` = '{ended.pipeline_run_id}'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    if found:
        run_id: str = found[0].info.run_id
        for name, value in ended.tags.items():
            if value:
                client.set_tag(run_id, name, value)
            elif name in found[0].data.tags:
                client.delete_tag(run_id, name)
    else:
        # The tag comes with the run, so that a retry after a kill finds it.
        tags = {name: value for name, value in ended.tags.items() if value} | {PIPELINE_TAG: ended.pipeline_run_id}
        made = client.create_run(experiment_id, tags=tags, run_name=ended.name)
        run_id = made.info.run_id
    client.set_terminated(run_id, status=ended.status)
    return run_id, not found
