"""What is in service on every line, what waits, and how the last pipeline run ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from stlm_core.integrations.mlflow_client import Tracking, open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, Version
from stlm_core.integrations.registry_view import LastRun, all_aliases, last_runs
from stlm_core.promotion.gate import COMPARED

State = Literal["champion", "waiting", "kept", "needs-human"]


@dataclass(frozen=True)
class VersionStatus:
    """A version with an alias.

    ``state``: "champion", or what became of a challenger: "waiting" for the gate, "kept" back by it, or "needs-human".
    ``since``: when it was promoted, kept back or handed to a person, or else registered; ISO 8601, UTC. ``reason``: of
    that. ``metrics``: fractions of 1; ``drift``: the largest distance to the images of the champion before. What was
    not measured is absent or None.
    """

    version: int
    state: State
    registered_at: str
    since: str
    reason: str
    metrics: Mapping[str, float]
    data_revision: str
    drift: float | None


@dataclass(frozen=True)
class LineStatus:
    """One line; None where there is nothing. ``previous``: the version that a rollback would bring back."""

    line: str
    champion: VersionStatus | None
    challenger: VersionStatus | None
    previous: int | None
    last_run: LastRun | None

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object; the last run's time in ISO 8601."""
        value = asdict(self)
        if self.last_run is not None:
            recorded = value["last_run"].pop("recorded_ms")
            value["last_run"]["recorded_at"] = timestamp(recorded)
        return value


def status(root: Path, experiments: Mapping[str, str | None]) -> list[LineStatus]:
    """The state of all lines, in the given order; at most three requests a line.

    Args:
        root: the project's folder, for a local database when ``MLFLOW_TRACKING_URI`` is not set.
        experiments: line -> ``register.experiment``; None for ``stlm-<line>``.

    Raises:
        UserError: MLflow does not answer.
    """
    named = {line: experiment or f"stlm-{line}" for line, experiment in experiments.items()}
    with open_tracking(root) as tracking:
        aliases, runs = all_aliases(tracking), last_runs(tracking, named)
        return [_line(tracking, line, aliases.get(line, {}), runs.get(line)) for line in named]


def _line(tracking: Tracking, line: str, aliases: Mapping[str, int], run: LastRun | None) -> LineStatus:
    registry = Registry(tracking, line)
    champion = registry.version(aliases[CHAMPION]) if CHAMPION in aliases else None
    waits = CHALLENGER in aliases and aliases[CHALLENGER] != aliases.get(CHAMPION)
    challenger = registry.version(aliases[CHALLENGER]) if waits else None
    return LineStatus(
        line=line,
        champion=None if champion is None else _version(champion, "champion", "promoted_at", "promotion_reason"),
        challenger=None if challenger is None else _challenger(challenger),
        previous=aliases.get(PREVIOUS),
        last_run=run,
    )


def _challenger(version: Version) -> VersionStatus:
    if "needs_human_at" in version.tags:
        return _version(version, "needs-human", "needs_human_at", "needs_human_reason")
    if "kept_at" in version.tags:
        return _version(version, "kept", "kept_at", "kept_reason")
    return _version(version, "waiting", "", "")


def _version(version: Version, state: State, since: str, reason: str) -> VersionStatus:
    registered = timestamp(version.created_ms)
    return VersionStatus(
        version=version.number,
        state=state,
        registered_at=registered,
        since=version.tags.get(since) or registered,
        reason=version.tags.get(reason, ""),
        metrics=numbers(version.tags, COMPARED),
        data_revision=version.tags.get("data_revision", ""),
        drift=numbers(version.tags, ("drift",)).get("drift"),
    )


def numbers(tags: Mapping[str, str], names: Sequence[str]) -> dict[str, float]:
    """Those of the tags that are there and are numbers."""
    found = {}
    for name in names:
        try:
            found[name] = float(tags[name])
        except (KeyError, ValueError):
            continue
    return found


def timestamp(milliseconds: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC, whole seconds."""
    return datetime.fromtimestamp(milliseconds // 1000, UTC).isoformat(timespec="seconds")
