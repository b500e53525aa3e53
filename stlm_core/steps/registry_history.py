"""All versions of a line and what became of them, told from their tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stlm_core.config import LineConfig
from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import REPLACES, Registry, Version
from stlm_core.promotion.gate import COMPARED
from stlm_core.steps.registry_status import numbers, timestamp

Kind = Literal[
    "registered", "copied", "promoted", "kept", "needs-human", "rejected", "replaced", "rolled-back", "restored"
]
# Kind -> the tags that say when, who and why; "" where there is none.
_TOLD: dict[Kind, tuple[str, str, str]] = {
    "promoted": ("promoted_at", "promoted_by", "promotion_reason"),
    "kept": ("kept_at", "", "kept_reason"),
    "needs-human": ("needs_human_at", "", "needs_human_reason"),
    "rejected": ("rejected_at", "rejected_by", "rejected_reason"),
    "rolled-back": ("rolled_back_at", "rolled_back_by", "rollback_reason"),
}


@dataclass(frozen=True)
class Event:
    """``at``: ISO 8601, UTC. ``by`` and ``why`` are "" where nothing is known. ``of``: the other version, if any."""

    at: str
    kind: Kind
    by: str
    why: str
    of: int | None = None


@dataclass(frozen=True)
class VersionHistory:
    """One version: its aliases now, and what happened to it, the latest first."""

    version: int
    aliases: tuple[str, ...]
    run_id: str
    onnx_sha256: str
    code_version: str
    data_revision: str
    metrics: Mapping[str, float]
    events: tuple[Event, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return asdict(self)


def history(config: LineConfig) -> list[VersionHistory]:
    """The line's versions, the newest first.

    A version remembers the last time of each kind; promoted anew, it forgets that it was kept back or rolled back.

    Raises:
        UserError: nothing was ever registered, or MLflow does not answer.
    """
    with open_tracking(config.root) as tracking:
        registry = Registry(tracking, config.name)
        if not registry.exists():
            raise UserError(f"line {config.name}: nothing is registered in {tracking.store}")
        aliases, versions = registry.aliases(), registry.tagged({})
    successors = _successors(versions)
    return [
        VersionHistory(
            version=version.number,
            aliases=tuple(sorted(alias for alias, number in aliases.items() if number == version.number)),
            run_id=version.run_id,
            onnx_sha256=version.tags.get("onnx_sha256", ""),
            code_version=version.tags.get("code_version", ""),
            data_revision=version.tags.get("data_revision", ""),
            metrics=numbers(version.tags, COMPARED),
            events=_latest_first([*_events(version), *successors.get(version.number, [])]),
        )
        for version in versions
    ]


def _events(version: Version) -> Iterator[Event]:
    tags = version.tags
    if "copied_from" in tags:
        source = f"version {tags.get('copied_version', '?')} of {tags['copied_from']}"
        yield Event(tags.get("copied_at") or timestamp(version.created_ms), "copied", tags.get("copied_by", ""), source)
    else:
        yield Event(timestamp(version.created_ms), "registered", "", "")
    for kind, (at, by, why) in _TOLD.items():
        if at in tags:
            other = tags.get(REPLACES, "") if kind == "promoted" else ""
            yield Event(tags[at], kind, tags.get(by, ""), tags.get(why, ""), int(other) if other.isdecimal() else None)


def _successors(versions: list[Version]) -> dict[int, list[Event]]:
    """Version -> when another took its place, or gave it back."""
    found: dict[int, list[Event]] = {}
    for version in versions:
        tags, replaced = version.tags, version.tags.get(REPLACES, "")
        if not replaced.isdecimal():
            continue
        events = found.setdefault(int(replaced), [])
        if "promoted_at" in tags:
            events.append(Event(tags["promoted_at"], "replaced", tags.get("promoted_by", ""), "", version.number))
        if "rolled_back_at" in tags:
            events.append(Event(tags["rolled_back_at"], "restored", tags.get("rolled_back_by", ""), "", version.number))
    return found


def _latest_first(events: list[Event]) -> tuple[Event, ...]:
    """Of the same second, what is given last comes first."""
    return tuple(sorted(events, key=lambda event: event.at)[::-1])
