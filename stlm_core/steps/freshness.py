"""``stlm check-freshness``: has anything changed since a line's model was trained?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stlm_core.config import LineConfig, decides_the_model
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, Registry, Version
from stlm_core.steps.contract import code_version
from stlm_core.steps.line_versions import LATEST, find_version
from stlm_core.steps.register import CONFIG_TAG, DATA_TAG, flatten_config

_CODE_TAG = "code_version"
_NAMED = 5
_CATALOG = "data.catalog_sha256"  # changes with the images and says nothing more


@dataclass(frozen=True)
class Freshness:
    """``stale``: train; ``reason`` says why or why not, in words.

    ``data`` is the published version's section of that name. ``champion``: number of the version in service, "" for
    none.
    """

    line: str
    stale: bool
    reason: str
    data_revision: str
    data: Mapping[str, Any]
    champion: str
    config_sha256: str
    code_version: str

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return asdict(self)


def check_freshness(
    config: LineConfig, *, revision: str = LATEST, force: bool = False, url: str | None = None
) -> Freshness:
    """Compare published images, settings and code with those that the line's versions in MLflow were made from.

    Nothing has to be trained when the champion came from the same, or a challenger that the gate kept back or a person
    is to judge, or a version that was rolled back or rejected. A challenger that nobody judged yet is one reason to run
    again.

    Args:
        config: its ``data`` section does not count; that of the published version takes its place.
        revision: of the published images, or ``latest``.
        force: stale whatever is found.
        url: where versions are published; None for ``STLM_DATA_URL``.

    Raises:
        UserError: no such version is published, or MLflow does not answer.
    """
    published = find_version(config.name, revision, url)
    config = config.model_copy(update={"data": published.data})
    now = {
        DATA_TAG: published.revision,
        CONFIG_TAG: config.model_hash(),
        _CODE_TAG: code_version(),
    }
    with open_tracking(config.root) as tracking:
        registry = Registry(tracking, config.name)
        champion = registry.at(CHAMPION)
        stale, reason = (True, "asked for") if force else _judge(registry, champion, config, now)
    return Freshness(
        line=config.name,
        stale=stale,
        reason=reason,
        data_revision=published.revision,
        data=published.data.model_dump(mode="json"),
        champion="" if champion is None else str(champion.number),
        config_sha256=now[CONFIG_TAG],
        code_version=now[_CODE_TAG],
    )


def _judge(
    registry: Registry, champion: Version | None, config: LineConfig, now: Mapping[str, str]
) -> tuple[bool, str]:
    """Whether to train, and why."""
    challenger = registry.at(CHALLENGER)
    same = "the same images, settings and code"
    if champion is not None and _came_from(champion, now):
        return False, f"version {champion.number}, the champion, came from {same}"
    for version in registry.tagged(now):
        if "rolled_back_at" in version.tags:
            return False, f"version {version.number} came from {same} and was rolled back"
        if "rejected_at" in version.tags:
            return False, f"version {version.number} came from {same} and was rejected"
    if challenger is not None and _came_from(challenger, now):
        if "kept_at" in challenger.tags:
            return False, f"version {challenger.number} came from {same} and the gate kept it back"
        if "needs_human_at" in challenger.tags:
            return False, f"version {challenger.number} came from {same} and waits for a person"
        if not config.promote.automatic:
            return False, f"version {challenger.number} came from {same} and waits for `stlm promote`"
        return True, f"version {challenger.number} came from {same}, but the gate has not judged it yet"
    if champion is None:
        return True, "no version is in service" if challenger else "no version was ever registered"
    return True, "; ".join(_differences(registry, champion, config, now))


def _came_from(version: Version, now: Mapping[str, str]) -> bool:
    return all(version.tags.get(tag) == value for tag, value in now.items())


def _differences(registry: Registry, champion: Version, config: LineConfig, now: Mapping[str, str]) -> list[str]:
    """What differs from the champion's inputs, a clause for each kind."""
    clauses = []
    before = {tag: champion.tags.get(tag, "") for tag in now}
    if not before[DATA_TAG]:
        clauses.append(f"which images version {champion.number} came from is not known")
    elif before[DATA_TAG] != now[DATA_TAG]:
        clauses.append(_data_clause(before[DATA_TAG], now[DATA_TAG]))
    if not before[CONFIG_TAG]:
        clauses.append(f"which settings version {champion.number} came from is not known")
    elif before[CONFIG_TAG] != now[CONFIG_TAG]:
        changed = _changed_settings(registry, champion, config)
        if clauses and changed is not None:
            changed = [clause for clause in changed if not clause.startswith(_CATALOG)]
        if changed is None:
            clauses.append("the settings changed")
        elif changed:
            more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
            clauses.append(f"the settings changed: {', '.join(changed[:_NAMED])}{more}")
    if before[_CODE_TAG] != now[_CODE_TAG]:
        clauses.append(f"the code changed: {before[_CODE_TAG] or 'unknown'} -> {now[_CODE_TAG]}")
    return clauses


def _data_clause(before: str, now: str) -> str:
    (images, _, table), (new_images, _, new_table) = before.partition("-"), now.partition("-")
    if images != new_images:
        return f"the images changed: {images[:12]} -> {new_images[:12]}"
    return f"what is known of the images changed: {table or 'nothing'} -> {new_table or 'nothing'}"


def _changed_settings(registry: Registry, champion: Version, config: LineConfig) -> list[str] | None:
    """Names and values of the settings that the champion's run has otherwise; None if that cannot be told."""
    params = registry.params(champion.run_id)
    now = {name: value for name, value in flatten_config(config) if decides_the_model(name)}
    known = {name: value for name, value in params.items() if decides_the_model(name)}
    if not known:
        return None
    names = sorted(name for name in {*now, *known} if now.get(name) != known.get(name))
    return [f"{name} {known.get(name, 'unset')} -> {now.get(name, 'unset')}" for name in names]
