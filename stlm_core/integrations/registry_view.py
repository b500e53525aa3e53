"""What MLflow holds of many lines, with few requests: one for the aliases of all, one for all experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stlm_core.integrations.mlflow_client import Tracking
from stlm_core.integrations.mlflow_outcome import PIPELINE_TAG

_PREFIX = "stlm-"
_MODELS_A_REQUEST, _EXPERIMENTS_A_REQUEST = 100, 1000


@dataclass(frozen=True)
class LastRun:
    """How a line's latest pipeline run ended.

    ``state`` as the pipelines say it, SUCCEEDED for example; ``recorded_ms``: milliseconds since 1970, UTC;
    ``failed_task`` and ``message`` are "" where nothing failed.
    """

    name: str
    state: str
    recorded_ms: int
    failed_task: str
    message: str


def all_aliases(tracking: Tracking) -> dict[str, dict[str, int]]:
    """Line -> alias -> version number, of every line that has a registered model."""
    found: dict[str, dict[str, int]] = {}
    token: str | None = None
    while True:
        page = tracking.client.search_registered_models(
            filter_string=f"name LIKE '{_PREFIX}%'", max_results=_MODELS_A_REQUEST, page_token=token
        )
        for model in page:
            aliases = {alias: int(number) for alias, number in model.aliases.items()}
            found[model.name.removeprefix(_PREFIX)] = aliases
        token = page.token
        if not token:
            return found


def last_runs(tracking: Tracking, experiments: Mapping[str, str]) -> dict[str, LastRun]:
    """Line -> its latest pipeline run whose end was recorded.

    Args:
        experiments: line -> name of its experiment; lines may share one.
    """
    ids = dict(_experiments(tracking))
    found = {}
    for line, experiment in experiments.items():
        if experiment not in ids or "'" in line:
            continue
        runs = tracking.client.search_runs(
            [ids[experiment]],
            filter_string=f"tags.`{PIPELINE_TAG}` LIKE '%' and tags.line = '{line}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if runs:
            tags, info = runs[0].data.tags, runs[0].info
            found[line] = LastRun(
                name=info.run_name or "",
                state=tags.get("state", info.status),
                recorded_ms=int(info.end_time or info.start_time or 0),
                failed_task=tags.get("failed_task", ""),
                message=tags.get("message", ""),
            )
    return found


def _experiments(tracking: Tracking) -> Iterator[tuple[str, str]]:
    token: str | None = None
    while True:
        page = tracking.client.search_experiments(max_results=_EXPERIMENTS_A_REQUEST, page_token=token)
        yield from ((experiment.name, experiment.experiment_id) for experiment in page)
        token = page.token
        if not token:
            return
