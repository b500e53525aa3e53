"""Promotion and rollback: which version of a line is in service, and why."""

from __future__ import annotations

import getpass
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from stlm_core.config import LineConfig
from stlm_core.errors import StlmError, UserError
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    REJECTED,
    REPLACES,
    ROLLED_BACK,
    Registry,
    Version,
    registry_lock,
)
from stlm_core.promotion.candidate import Decision
from stlm_core.steps.judgement import judge
from stlm_core.steps.promotion_records import keep_decision, keep_reference
from stlm_core.steps.version_tags import KEPT, NEEDS_HUMAN

_LONGEST_REASON = 1000  # characters
_LONGEST_TAG = 4500  # characters; MLflow takes 5000
_ATTEMPTS = 5
_WAITING = (*KEPT, *NEEDS_HUMAN, *REJECTED)


@dataclass(frozen=True)
class Promotion:
    """What became of a challenger.

    ``outcome``: "promoted", "kept" (the champion stays), "needs-human" (the rules cannot decide: the champion stays
    until somebody promotes with force or rejects), or "already" (nothing is waiting). ``champion`` is the version in
    service afterwards, or would be without ``dry_run``; None if there is none. ``previous`` is what it replaced, or
    what was in service before a champion whose version was deleted.
    ``decision``: the rules' verdicts; None where none were asked.
    """

    line: str
    outcome: Literal["promoted", "kept", "needs-human", "already"]
    champion: int | None
    challenger: int | None
    previous: int | None
    reasons: tuple[str, ...]
    dry_run: bool = False
    decision: Decision | None = None


@dataclass(frozen=True)
class Rollback:
    """``champion`` took the place of ``withdrawn``; ``previous`` is what a further rollback would bring back.

    ``withdrawn`` is None where nothing was in service, because the champion's version was deleted.
    """

    line: str
    champion: int
    withdrawn: int | None
    previous: int | None
    dry_run: bool = False


def promote(
    config: LineConfig, *, dry_run: bool = False, force: bool = False, reason: str = "", by: str | None = None
) -> Promotion:
    """Judge the line's challenger and let it take the champion's place if every rule holds.

    The version gets the tags ``promoted_at``, ``promoted_by``, ``promotion_reason`` and ``replaces``; a challenger that
    is kept back gets ``kept_at`` and ``kept_reason``, one that the rules cannot judge ``needs_human_at`` and
    ``needs_human_reason``. The verdicts are kept as a file of the challenger's run. Tags come before aliases, and
    ``champion`` before ``challenger`` is dropped, so a killed promotion is completed by the next one. The statistics of
    the images that the champion was trained on are put where the validation finds them,
    ``data/lines/<line>/reference.json``.

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
        for _ in range(_ATTEMPTS):
            # What takes long, before the lock; under it, only a look whether it still holds.
            champion, challenger = registry.at(CHAMPION), registry.at(CHALLENGER)
            if champion is None and challenger is None:
                back = _last_in_service(registry)
                way = f", or `stlm rollback --line {config.name}` to put version {back.number} back" if back else ""
                raise UserError(
                    f"line {config.name}: no challenger in {tracking.store}; run `stlm register` first{way}"
                )
            waiting = challenger is not None and challenger.number != (champion.number if champion else None)
            decision = judge(config, registry, challenger, champion) if challenger is not None and waiting else None
            if dry_run:
                return _outcome(config, champion, challenger, decision, registry, (force, reason), dry_run=True)
            with registry.locked("promote"):
                if (registry.at(CHAMPION), registry.at(CHALLENGER)) != (champion, challenger):
                    continue
                result = _outcome(config, champion, challenger, decision, registry, (force, reason))
                _carry_out(registry, result, champion, challenger, by)
            break
        else:
            raise StlmError(f"line {config.name}: champion and challenger keep changing; run it again")
        if result.decision is not None and challenger is not None:
            keep_decision(registry, challenger, result.outcome, result.reasons, result.decision)
        in_service = challenger if result.outcome == "promoted" else champion
        if in_service is not None and result.outcome in ("promoted", "already"):
            keep_reference(config, registry, in_service)
        return result


def rollback(config: LineConfig, *, dry_run: bool = False, reason: str = "", by: str | None = None) -> Rollback:
    """Put the previous champion back in service; the present one is tagged and will not pass the gate again.

    A champion whose version was deleted took its alias and its tags with it: then ``previous`` says what to go back to,
    and there is nothing to tag.

    Raises:
        UserError: there is no champion and no ``previous``, or no champion before the present one.
    """
    _check_reason(reason, needed=False)
    with open_tracking(config.root) as tracking, registry_lock(config.root, config.name):
        registry = Registry(tracking, config.name)
        if not registry.exists():
            raise UserError(f"line {config.name}: nothing is in service in {tracking.store}")
        with nullcontext() if dry_run else registry.locked("rollback"):
            champion = registry.at(CHAMPION)
            back = _before(registry, champion) if champion else _last_in_service(registry)
            if back is None:
                present = (
                    f"champion version {champion.number} has" if champion else "nothing is in service, and there is"
                )
                raise UserError(
                    f"line {config.name}: {present} no previous one to go back to, or only such as were withdrawn"
                )
            withdrawn = [champion] if champion else []
            further = _before(registry, back, *withdrawn)
            result = Rollback(
                config.name,
                back.number,
                champion.number if champion else None,
                further.number if further else None,
                dry_run,
            )
            if not dry_run:
                values = (_now(), by or user_name(), reason or "not stated")
                if champion is not None:
                    registry.tag(champion.number, dict(zip(ROLLED_BACK, values, strict=True)))
                registry.point(CHAMPION, back.number)
                _settle(registry, back)
        if not dry_run:
            keep_reference(config, registry, back)
        return result


def reject(config: LineConfig, *, reason: str, by: str | None = None) -> int:
    """Say no to the challenger: it waits no longer, and the reason is kept with it. Its version number.

    Raises:
        UserError: no reason, or no challenger.
    """
    if not reason.strip():
        raise UserError("--reason: say why; it is kept with the version")
    _check_reason(reason, needed=False)
    with open_tracking(config.root) as tracking, registry_lock(config.root, config.name):
        registry = Registry(tracking, config.name)
        if not registry.exists():
            raise UserError(f"line {config.name}: no challenger in {tracking.store}")
        with registry.locked("reject"):
            champion, challenger = registry.at(CHAMPION), registry.at(CHALLENGER)
            if challenger is None or (champion is not None and champion.number == challenger.number):
                raise UserError(f"line {config.name}: no challenger in {tracking.store}")
            values = (_now(), by or user_name(), reason)
            registry.tag(challenger.number, dict(zip(REJECTED, values, strict=True)))
            registry.point(CHALLENGER, None)
            return challenger.number


def _outcome(
    config: LineConfig,
    champion: Version | None,
    challenger: Version | None,
    decision: Decision | None,
    registry: Registry,
    forced: tuple[bool, str],
    *,
    dry_run: bool = False,
) -> Promotion:
    """What is to be done. ``decision`` is None when nobody waits."""
    old = champion.number if champion else None
    if challenger is None or decision is None:
        before = _before(registry, champion) if champion else None
        return Promotion(config.name, "already", old, None, before.number if before else None, (), dry_run)
    force, reason = forced
    reasons = decision.reasons
    if decision.promote or force:
        if reason:
            reasons = (f"forced: {reason}" if force else reason, *reasons)
        new, replaced = challenger.number, old if champion else _left_behind(registry, challenger)
        return Promotion(config.name, "promoted", new, new, replaced, reasons, dry_run, decision)
    outcome: Literal["kept", "needs-human"] = "needs-human" if decision.outcome == "needs-human" else "kept"
    previous = registry.aliases().get(PREVIOUS)
    return Promotion(config.name, outcome, old, challenger.number, previous, reasons, dry_run, decision)


def _carry_out(
    registry: Registry, result: Promotion, champion: Version | None, challenger: Version | None, by: str | None
) -> None:
    """Write it, tags before aliases."""
    if challenger is None or result.outcome == "already":
        if champion is not None:
            _settle(registry, champion)
        return
    reasons = "; ".join(result.reasons)[:_LONGEST_TAG]
    if result.outcome == "promoted":
        tags = {"promoted_at": _now(), "promoted_by": by or user_name(), "promotion_reason": reasons}
        registry.tag(challenger.number, {**tags, REPLACES: "" if result.previous is None else str(result.previous)})
        registry.point(PREVIOUS, result.previous)
        registry.point(CHAMPION, challenger.number)
        registry.point(CHALLENGER, None)
        registry.untag(challenger.number, *ROLLED_BACK, *_WAITING)
        return
    chosen, other = (NEEDS_HUMAN, KEPT) if result.outcome == "needs-human" else (KEPT, NEEDS_HUMAN)
    registry.tag(challenger.number, dict(zip(chosen, (_now(), reasons), strict=True)))
    registry.untag(challenger.number, *other)


def _settle(registry: Registry, champion: Version) -> None:
    """Finish what a killed command left: ``previous`` follows from the champion, who is no challenger."""
    before = _before(registry, champion)
    registry.point(PREVIOUS, before.number if before else None)
    if registry.aliases().get(CHALLENGER) == champion.number:
        registry.point(CHALLENGER, None)


def _before(registry: Registry, champion: Version, *withdrawn: Version) -> Version | None:
    """What the champion replaced, or what that one did where it was withdrawn, and so on; None if none is left.

    A version that came into service a second time replaced another one than the first time, so the way back may be a
    circle.
    """
    seen = {champion.number, *(version.number for version in withdrawn)}
    number = _replaced(champion)
    while number is not None and number not in seen:
        seen.add(number)
        found = registry.version(number)
        if found is None or ROLLED_BACK[0] not in found.tags:
            return found
        number = _replaced(found)
    return None


def _last_in_service(registry: Registry) -> Version | None:
    """What a champion whose version was deleted replaced, unless it was withdrawn."""
    found = registry.at(PREVIOUS)
    return None if found is not None and ROLLED_BACK[0] in found.tags else found


def _left_behind(registry: Registry, challenger: Version) -> int | None:
    """What a champion whose version was deleted replaced; where that is the challenger, what it replaced itself."""
    number = registry.aliases().get(PREVIOUS)
    if number != challenger.number:
        return number
    before = _before(registry, challenger)
    return before.number if before else None


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


def user_name() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
