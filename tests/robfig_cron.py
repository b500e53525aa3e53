"""What a KFP backend makes of a cron text: robfig/cron 1.2.0's rules (`parser.go`, `spec.go`), written down once more.

The backend's API server refuses what :func:`parse` refuses, its scheduler fires when :func:`fires` says so.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import datetime

_BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES: tuple[dict[str, int], ...] = (
    {},
    {},
    {},
    {},
    {name.lower(): number for number, name in enumerate(calendar.month_abbr) if number},
    {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6},
)


class Refused(ValueError):
    """`cron.Parse` returns an error."""


@dataclass(frozen=True)
class Schedule:
    """Second, minute, hour, day of the month, month, weekday; ``starred`` for the two day fields."""

    sets: tuple[frozenset[int], ...]
    starred: tuple[bool, bool]


def parse(text: str) -> Schedule:
    """`cron.Parse`: six fields, or five without the weekday."""
    fields = text.split()
    if len(fields) not in (5, 6):
        raise Refused(f"Expected 5 to 6 fields, found {len(fields)}: {text}")
    fields += ["*"] * (6 - len(fields))
    parsed = [_field(field, bounds, names) for field, bounds, names in zip(fields, _BOUNDS, _NAMES, strict=True)]
    return Schedule(tuple(values for values, _ in parsed), (parsed[3][1], parsed[5][1]))


def fires(schedule: Schedule, moment: datetime) -> bool:
    """Whether the schedule fires at ``moment``, a time on the cluster's clock."""
    weekday = moment.isoweekday() % 7
    second, minute, hour, days, months, weekdays = schedule.sets
    if (
        moment.month not in months
        or moment.hour not in hour
        or moment.minute not in minute
        or moment.second not in second
    ):
        return False
    if any(schedule.starred):
        return moment.day in days and weekday in weekdays
    return moment.day in days or weekday in weekdays


def _field(field: str, bounds: tuple[int, int], names: dict[str, int]) -> tuple[frozenset[int], bool]:
    values: set[int] = set()
    starred = False
    for expression in filter(None, field.split(",")):
        found, star = _range(expression, bounds, names)
        values |= found
        starred |= star
    return frozenset(values), starred


def _range(expression: str, bounds: tuple[int, int], names: dict[str, int]) -> tuple[set[int], bool]:
    range_and_step = expression.split("/")
    ends = range_and_step[0].split("-")
    star = ends[0] in ("*", "?")
    if star:
        start, end = bounds
    else:
        if len(ends) > 2:
            raise Refused(f"Too many hyphens: {expression}")
        start = _number(ends[0], names)
        end = _number(ends[-1], names)
    if len(range_and_step) > 2:
        raise Refused(f"Too many slashes: {expression}")
    step = 1
    if len(range_and_step) == 2:
        step = _number(range_and_step[1], {})
        if len(ends) == 1:
            end = bounds[1]
    if start < bounds[0]:
        raise Refused(f"Beginning of range ({start}) below minimum ({bounds[0]}): {expression}")
    if end > bounds[1]:
        raise Refused(f"End of range ({end}) above maximum ({bounds[1]}): {expression}")
    if start > end:
        raise Refused(f"Beginning of range ({start}) beyond end of range ({end}): {expression}")
    if step == 0:
        raise Refused(f"Step of range should be a positive number: {expression}")
    return set(range(start, end + 1, step)), star


def _number(text: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not re.fullmatch(r"\+?\d+", text, re.ASCII):
        raise Refused(f"Failed to parse int from {text}")
    return int(text)
