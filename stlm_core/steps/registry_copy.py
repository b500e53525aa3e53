"""``stlm copy``: a version from one registry to another, staging to production for example."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from stlm_core.addresses import without_credentials
from stlm_core.config import LineConfig
from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import (
    Tracking,
    missing_database,
    open_tracking,
    tracking_uri,
)
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, Registry, Version
from stlm_core.integrations.names import MODEL_FILE
from stlm_core.integrations.registry_copy import Parcel, deliver_run, fetch_version
from stlm_core.integrity import VERIFY_KEY, key_path, verify_model
from stlm_core.steps.promote import user_name

_ONNX_TAG = "onnx_sha256"
# What became of a version in one registry is no fact about it in another. That it was rolled back is: the gate of the
# other one is to know.
_LEFT = (
    *("promoted_at", "promoted_by", "promotion_reason", "replaces", "kept_at", "kept_reason"),
    *("needs_human_at", "needs_human_reason", "rejected_at", "rejected_by", "rejected_reason"),
)
_JUDGED = ("promoted_at", "rejected_at")


@dataclass(frozen=True)
class Copy:
    """``outcome``: "already" where the target had the file. ``alias``: what points to it there now, "" if nothing.

    ``source`` and ``target`` are fit for logs.
    """

    line: str
    outcome: Literal["copied", "already"]
    source: str
    source_version: int
    target: str
    target_version: int
    alias: str


def copy_version(
    config: LineConfig,
    *,
    source: str | None = None,
    target: str | None = None,
    alias: str = CHAMPION,
    number: int | None = None,
    by: str | None = None,
) -> Copy:
    """Copy one version with its run, its files and its model, and make it the target's challenger.

    The same file is copied once: a copy that was killed is completed, and one that is there stays as it is. Every file
    is checked before it is sent and after it arrived, with ``STLM_VERIFY_KEY`` the model's signature too. Nothing is
    written to the source.

    Args:
        source: address of MLflow; None for the project's own.
        target: the same.
        alias: which version of the source.
        number: its number instead.
        by: who copies; None for the user of this process.

    Raises:
        UserError: both are one registry, there is no such version, or one of them does not answer.
        StlmError: a file is not the one that was registered, or did not arrive whole.
    """
    here = tracking_uri(config.root)
    source, target = source or here, target or here
    if without_credentials(source).rstrip("/") == without_credentials(target).rstrip("/"):
        raise UserError(f"line {config.name}: source and target are the same registry; give --from or --to")
    missing = missing_database(source)  # MLflow would make one
    if missing is not None:
        raise UserError(f"line {config.name}: nothing to copy: there is no database {missing}")
    with open_tracking(config.root, source) as tracking:
        store, version = tracking.store, _chosen(Registry(tracking, config.name), tracking, alias, number)
    with open_tracking(config.root, target) as tracking:
        found = Registry(tracking, config.name).find(_ONNX_TAG, version.tags[_ONNX_TAG])
        if found is not None:
            return _finished(tracking, config, store, version, found, copied=False)
    with tempfile.TemporaryDirectory(prefix="stlm-copy-") as folder:
        with open_tracking(config.root, source) as tracking:
            registry = Registry(tracking, config.name)
            parcel = fetch_version(tracking, registry, _chosen(registry, tracking, alias, version.number), Path(folder))
        _verify(config, parcel)
        came_from = {
            "copied_from": store,
            "copied_version": str(version.number),
            "copied_run_id": version.run_id,
            "copied_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "copied_by": by or user_name(),
        }
        with open_tracking(config.root, target) as tracking:
            return _deliver(tracking, config, store, parcel, came_from)


def _chosen(registry: Registry, tracking: Tracking, alias: str, number: int | None) -> Version:
    version = registry.at(alias) if number is None else registry.version(number)
    if version is None:
        what = f"`{alias}`" if number is None else f"version {number}"
        raise UserError(f"line {registry.line}: no {what} in {tracking.store}")
    if _ONNX_TAG not in version.tags:
        raise UserError(f"{registry.name} version {version.number} in {tracking.store}: has no tag {_ONNX_TAG}")
    return version


def _verify(config: LineConfig, parcel: Parcel) -> None:
    tags = parcel.version.tags
    verify_model(
        (parcel.model / MODEL_FILE).read_bytes(),
        line=config.name,
        sha256=tags[_ONNX_TAG],
        signature=tags.get("onnx_signature"),
        public_key=key_path(VERIFY_KEY),
    )


def _deliver(tracking: Tracking, config: LineConfig, store: str, parcel: Parcel, came_from: Mapping[str, str]) -> Copy:
    registry = Registry(tracking, config.name)
    registry.create()
    # Uploads, before the lock.
    run = deliver_run(tracking, parcel, config.register_.experiment or f"stlm-{config.name}", came_from)
    tags = {name: value for name, value in parcel.version.tags.items() if name not in _LEFT} | dict(came_from)
    with registry.locked("copy"):
        found = registry.find(_ONNX_TAG, tags[_ONNX_TAG])
        copied = found is None
        if found is None:
            found = registry.add(run, tags, parcel.description)
        return _pointed(registry, tracking, store, parcel.version, found, copied=copied)


def _finished(
    tracking: Tracking, config: LineConfig, store: str, version: Version, found: Version, *, copied: bool
) -> Copy:
    registry = Registry(tracking, config.name)
    with registry.locked("copy"):
        return _pointed(registry, tracking, store, version, found, copied=copied)


def _pointed(
    registry: Registry, tracking: Tracking, store: str, version: Version, found: Version, *, copied: bool
) -> Copy:
    """Let it be the challenger, unless the target has judged it before."""
    aliases = registry.aliases()
    if aliases.get(CHAMPION) == found.number:
        alias = CHAMPION
    elif aliases.get(CHALLENGER) == found.number:
        alias = CHALLENGER
    elif any(tag in found.tags for tag in _JUDGED):
        alias = ""
    else:
        registry.point(CHALLENGER, found.number)
        alias = CHALLENGER
    return Copy(
        line=registry.line,
        outcome="copied" if copied else "already",
        source=store,
        source_version=version.number,
        target=tracking.store,
        target_version=found.number,
        alias=alias,
    )
