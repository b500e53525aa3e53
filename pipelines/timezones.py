"""Schedules of lines in other time zones than the cluster's.

KFP has one time zone for all schedules: ``CRON_SCHEDULE_TIMEZONE`` of its scheduler. Neither its API nor the cron text
it accepts can name another. A line's schedule is therefore rewritten in the cluster's time zone where that is exact,
and refused where it is not.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from pipelines.cron import Cron, field_of
from stlm_core.errors import UserError

# How far ahead two zones must keep their distance.
_YEARS = 5


def zone(name: str, setting: str) -> ZoneInfo:
    """The time zone ``name``.

    Raises:
        UserError: there is none of that name; the message begins with ``setting``.
    """
    known = available_timezones()
    if not known:
        raise UserError(f"{setting}: this machine has no time zone data; install the package `tzdata`")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ", for example Europe/Berlin"
        raise UserError(f"{setting}: {name!r} is not an IANA time zone{hint}")
    return ZoneInfo(name)


def in_cluster_time(cron: Cron, timezone: str, cluster: str, setting: str, today: datetime | None = None) -> Cron:
    """``cron``, meant in ``timezone``, as the same moments in the time zone ``cluster``.

    Raises:
        UserError: no expression says that: the zones change their clocks on different days, or the day changes in
            between and the schedule names days of the month. The message begins with ``setting``.
    """
    if timezone == cluster:
        return cron
    advice = (
        f"KFP has one time zone for all schedules; give the cluster this one (docs/kubeflow.md) and pass "
        f"--cluster-timezone {timezone}, or write the schedule in {cluster}"
    )
    minutes = _distance(zone(timezone, setting), zone(cluster, "--cluster-timezone"), today or datetime.now(UTC))
    if minutes is None:
        raise UserError(f"{setting}: {timezone} and the cluster's {cluster} drift apart over the year; {advice}")
    if minutes == 0:
        return cron
    carried = {(minute + minutes % 60) // 60 for minute in cron.minute.values}
    if len(carried) > 1:
        raise UserError(f"{setting}: in the cluster's {cluster} these minutes fall into different hours; {advice}")
    ahead = minutes // 60 + carried.pop()
    hours = {hour + ahead for hour in cron.hour.values}
    moved = replace(
        cron,
        minute=field_of(frozenset((minute + minutes) % 60 for minute in cron.minute.values)),
        hour=field_of(frozenset(hour % 24 for hour in hours)),
    )
    days = {hour // 24 for hour in hours}
    if days == {0} or _every_day(cron):
        return moved
    if len(days) > 1 or not (cron.day.starred and len(cron.day.values) == 31 and len(cron.month.values) == 12):
        raise UserError(f"{setting}: in the cluster's {cluster} the schedule falls on other days; {advice}")
    shift = days.pop()
    return replace(moved, weekday=field_of(frozenset((weekday + shift) % 7 for weekday in cron.weekday.values)))


def _every_day(cron: Cron) -> bool:
    """Whether ``cron`` fires on every date."""
    full = (len(cron.day.values) == 31, len(cron.weekday.values) == 7)
    either = not (cron.day.starred or cron.weekday.starred)
    return len(cron.month.values) == 12 and (any(full) if either else all(full))


def _distance(source: ZoneInfo, target: ZoneInfo, today: datetime) -> int | None:
    """Minutes that clocks in ``target`` are ahead of those in ``source``; None where that changes."""
    start = today.replace(minute=0, second=0, microsecond=0)
    moments = (start + timedelta(hours=hour) for hour in range(_YEARS * 366 * 24))
    found = {_offset(moment, target) - _offset(moment, source) for moment in moments}
    if len(found) > 1:
        return None
    return int(found.pop().total_seconds()) // 60


def _offset(moment: datetime, where: ZoneInfo) -> timedelta:
    return moment.astimezone(where).utcoffset() or timedelta(0)
