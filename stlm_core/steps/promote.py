"""Promotion and rollback: which version of a line is in service, and why."""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from stlm_core.config import LineConfig
from stlm_core.data.drift import reference_path
from stlm_core.errors import UserError
from stlm_core.files import write_json_atomic
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    REPLACES,
    Registry,
    Version,
    registry_lock,
)
from stlm_core.steps.judgement import ROLLED_BACK, judge

STATISTICS_ARTIFACT = "validation/statistics.json"
_LONGEST_REASON = 1000  # characters


@dataclass(frozen=True)
class Promotion:
    """What became of a challenger.

    ``outcome``: "promoted", "kept" (the champion stays), or "already" (nothing is waiting). ``champion`` is the version
    in service afterwards, or would be without ``dry_run``; None if there is none. ``previous`` is what it replaced.
    """

    line: str
    outcome: Literal["promoted", "kept", "already"]
    champion: int | None
    challenger: int | None
    previous: int | None
    reasons: tuple[str, ...]
    dry_run: bool = False


@dataclass(frozen=True)
class Rollback:
    """``champion`` took the place of ``withdrawn``; ``previous`` is what a further rollback would bring back."""

    line: str
    champion: int
    withdrawn: int
    previous: int | None
    dry_run: bool = False


@dataclass(frozen=True)
class LineStatus:
    """One line's versions; None where there is none."""

    line: str
    champion: Version | None
    challenger: Version | None
    previous: Version | None


def promote(
    config: LineConfig, *, dry_run: bool = False, force: bool = False, reason: str = "", by: str | None = None
) -> Promotion:
    """Judge the line's challenger and let it take the champion's place if every rule holds.

    The version gets the tags ``promoted_at``, ``promoted_by``, ``promotion_reason`` and ``replaces``; a challenger that
    is kept back gets ``kept_at`` and ``kept_reason``. Tags come before aliases, and ``champion`` before ``challenger``
    is dropped, so a killed promotion is completed by the next one. The statistics of the images that the champion was
    trained on are put where the validation finds them, ``data/lines/<line>/reference.json``.

    Args:
        dry_run: decide, write nothing.
        force: promote whatever the rules say; needs a ``reason``.
        by: who decides; None for the user of this process.

    Raises:
        UserError: nothing is registered, a forced promotion lacks its reason, or MLflow does not answer.
    """
    _check_reason(reason, needed=force)
    with open_tracking(config.root) as tracking, registry_lock(config.root, config.name):
        registry = Registry(tracking, config.name)
        champion, challenger = registry.at(CHAMPION), registry.at(CHALLENGER)
        if challenger is None or (champion is not None and challenger.number == champion.number):
            if champion is None:
                raise UserError(f"line {config.name}: no challenger in {tracking.store}; run `stlm register` first")
            if not dry_run:
                _settle(registry, champion)
                _keep_reference(config, registry, champion)
            previous = _replaced(champion)
            return Promotion(config.name, "already", champion.number, None, previous, (), dry_run)
        decision = judge(config, registry, challenger, champion)
        reasons = (f"forced: {reason}", *decision.reasons) if force else decision.reasons
        old = champion.number if champion else None
        if not (decision.promote or force):
            if not dry_run:
                registry.tag(challenger.number, {"kept_at": _now(), "kept_reason": "; ".join(reasons)})
            return Promotion(
                config.name, "kept", old, challenger.number, registry.aliases().get(PREVIOUS), reasons, dry_run
            )
        if not dry_run:
            _put_in_service(registry, challenger, old, reasons, by)
            _keep_reference(config, registry, challenger)
        return Promotion(config.name, "promoted", challenger.number, challenger.number, old, reasons, dry_run)


def rollback(config: LineConfig, *, dry_run: bool = False, reason: str = "", by: str | None = None) -> Rollback:
    """Put the previous champion back in service; the present one is tagged and will not pass the gate again.

    Raises:
        UserError: there is no champion, or none before it.
    """
    _check_reason(reason, needed=False)
    with open_tracking(config.root) as tracking, registry_lock(config.root, config.name):
        registry = Registry(tracking, config.name)
        champion = registry.at(CHAMPION)
        if champion is None:
            raise UserError(f"line {config.name}: nothing is in service in {tracking.store}")
        number = _replaced(champion)
        back = registry.version(number) if number is not None else None
        if back is None:
            raise UserError(f"line {config.name}: champion version {champion.number} has no previous one to go back to")
        result = Rollback(config.name, back.number, champion.number, _replaced(back), dry_run)
        if not dry_run:
            values = (_now(), by or _user(), reason or "not stated")
            registry.tag(champion.number, dict(zip(ROLLED_BACK, values, strict=True)))
            registry.point(CHAMPION, back.number)
            _settle(registry, back)
            _keep_reference(config, registry, back)
        return result


def status(root: Path, lines: list[str]) -> list[LineStatus]:
    """Aliases of all lines, in the given order.

    Raises:
        UserError: MLflow does not answer.
    """
    with open_tracking(root) as tracking:
        return [_status(Registry(tracking, line), line) for line in lines]


def _status(registry: Registry, line: str) -> LineStatus:
    aliases = registry.aliases()
    champion, challenger, previous = (
        registry.version(aliases[alias]) if alias in aliases else None for alias in (CHAMPION, CHALLENGER, PREVIOUS)
    )
    return LineStatus(line, champion, challenger, previous)


def _put_in_service(
    registry: Registry, version: Version, old: int | None, reasons: tuple[str, ...], by: str | None
) -> None:
    tags = {"promoted_at": _now(), "promoted_by": by or _user(), "promotion_reason": "; ".join(reasons)}
    registry.tag(version.number, {**tags, REPLACES: "" if old is None else str(old)})
    if old is not None:
        registry.point(PREVIOUS, old)
    registry.point(CHAMPION, version.number)
    registry.point(CHALLENGER, None)
    registry.untag(version.number, *ROLLED_BACK, "kept_at", "kept_reason")


def _keep_reference(config: LineConfig, registry: Registry, champion: Version) -> None:
    """Let the validation compare with the champion's training images; with none where their statistics are unknown.

    The champion is in service by now, so a folder that cannot be written is a warning; the next command tries again.
    """
    path = reference_path(config)
    statistics = registry.run_json(champion.run_id, STATISTICS_ARTIFACT)
    try:
        if statistics is not None:
            write_json_atomic(path, statistics)
        else:
            path.unlink(missing_ok=True)
    except (OSError, UserError) as error:
        print(f"warning: {error}; drift is measured against the model before", file=sys.stderr)


def _settle(registry: Registry, champion: Version) -> None:
    """Finish what a killed command left: ``previous`` follows from the champion, who is no challenger."""
    number = _replaced(champion)
    registry.point(PREVIOUS, number if number is not None and registry.version(number) else None)
    if registry.aliases().get(CHALLENGER) == champion.number:
        registry.point(CHALLENGER, None)


def _replaced(version: Version) -> int | None:
    number = version.tags.get(REPLACES, "")
    return int(number) if number.isdecimal() else None


def _check_reason(reason: str, *, needed: bool) -> None:
    if needed and not reason.strip():
        raise UserError("--force needs --reason TEXT, which is kept with the version")
    if len(reason) > _LONGEST_REASON:
        raise UserError(f"--reason: {len(reason)} characters, at most {_LONGEST_REASON}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
