"""Cron expressions: what ``params.yaml`` accepts, and the six fields that Kubeflow Pipelines reads.

KFP parses with robfig/cron 1.2.0 (its ``go.mod`` from 2.14 to 2.17). That parser puts the seconds first and takes five
fields as seconds to month, so ``0 2 * * *`` would run every hour; it has no name for Sunday but 0; it has no time zone;
and an expression that no date meets makes KFP's scheduler loop for ever. Here five fields are what crontab(5) says they
are, everything is checked before it leaves, and what is accepted never means something else over there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

from stlm_core.errors import UserError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# KFP's parser looks for a next date this far ahead and no further.
_HORIZON = timedelta(days=5 * 365)
# Dates and weekdays repeat after 28 years, until 2100.
_CALENDAR = tuple(date(2024, 1, 1) + timedelta(days=n) for n in range(28 * 366))


@dataclass(frozen=True)
class _Range:
    """What one field may hold; ``names`` stand for ``low``, ``low + 1`` and so on."""

    label: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    any_mark: str = "*"


_FIELDS = (
    _Range("second", 0, 59),
    _Range("minute", 0, 59),
    _Range("hour", 0, 23),
    _Range("day of the month", 1, 31, any_mark="*?"),
    _Range("month", 1, 12, MONTHS),
    _Range("day of the week", 0, 6, WEEKDAYS, any_mark="*?"),
)


@dataclass(frozen=True)
class Field:
    """One field as KFP reads ``text``: the values it names, and whether it is ``starred`` (``*``, ``?``, ``*/2``)."""

    text: str
    values: frozenset[int]
    starred: bool


@dataclass(frozen=True)
class Cron:
    """A checked expression. The order of the fields is KFP's."""

    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    @property
    def text(self) -> str:
        """The six fields as KFP takes them."""
        fields = (self.second, self.minute, self.hour, self.day, self.month, self.weekday)
        return " ".join(field.text for field in fields)

    def on(self, day: date) -> bool:
        """Whether it fires on ``day``.

        Both day fields must agree when one of them is starred; else one is enough, as in crontab(5).
        """
        if day.month not in self.month.values:
            return False
        named = day.day in self.day.values
        weekday = day.isoweekday() % 7 in self.weekday.values
        return (named and weekday) if self.day.starred or self.weekday.starred else (named or weekday)


def parse(expression: str, setting: str) -> Cron:
    """``expression`` of five fields (crontab) or six (the seconds first).

    Raises:
        UserError: it is neither, or KFP would refuse it, misread it or never fire; the message begins with ``setting``.
    """
    words = expression.split()
    if expression.strip().startswith("@"):
        raise UserError(f"{setting}: {expression!r} is a nickname; write its five fields, for example `0 2 * * *`")
    if words and "=" in words[0]:
        raise UserError(f"{setting}: {words[0]} does not belong here; the time zone has a setting of its own")
    if len(words) not in (5, 6):
        raise UserError(
            f"{setting}: {expression!r} has {len(words)} fields; a schedule has five (minute, hour, day of the month, "
            "month, day of the week) or six with the seconds first"
        )
    if len(words) == 5:
        words = ["0", *words]
    cron = Cron(*(_field(word, which, setting) for word, which in zip(words, _FIELDS, strict=True)))
    last = _CALENDAR[0]
    for day in _CALENDAR:
        if cron.on(day):
            last = day
        elif day - last > _HORIZON:
            raise UserError(
                f"{setting}: {expression!r} fires less than once in five years or never, which blocks KFP's scheduler"
            )
    return cron


def field_of(values: frozenset[int]) -> Field:
    """A field that lists ``values``."""
    return Field(",".join(str(value) for value in sorted(values)), values, starred=False)


def _field(word: str, which: _Range, setting: str) -> Field:
    """One field, its commas taken apart. Weekdays are written out as the numbers that KFP knows, where 7 is 0."""
    texts: list[str] = []
    values: set[int] = set()
    for piece in word.split(","):
        found = _piece(piece, which, f"{setting}: {which.label} {word!r}")
        values.update(found)
        if which.names is WEEKDAYS and piece[0] not in "*?":
            texts += [str(value % 7) for value in found]
        else:
            texts.append(piece)
    starred = any(piece[0] in "*?" for piece in word.split(","))
    if which.names is WEEKDAYS:
        values = {value % 7 for value in values}
    return Field(",".join(texts), frozenset(values), starred)


def _piece(piece: str, which: _Range, where: str) -> range:
    """The values of one piece: ``*``, ``3``, ``3-7``, each with an optional ``/step``. ``3/5`` is ``3-max/5``."""
    shape = re.fullmatch(r"(?:([*?])|(\w+)(?:-(\w+))?)(?:/(\w+))?", piece, re.ASCII)
    if shape is None:
        raise UserError(f"{where}: {piece!r} is not a value, a range `a-b`, a step `*/n` or a list of them")
    mark, first, last, given = shape.groups()
    if mark and mark not in which.any_mark:
        raise UserError(f"{where}: `?` belongs to the two day fields only; write `*`")
    # crontab(5) has two Sundays, 0 and 7.
    high = 7 if which.names is WEEKDAYS and not mark else which.high
    low = which.low if mark else _value(first, which, high, where)
    if mark or (given and not last):
        high = which.high
    elif last:
        high = _value(last, which, high, where)
    else:
        high = low
    if low > high:
        raise UserError(f"{where}: {piece!r} runs backwards; write two ranges, the first to its end")
    step = 1
    if given:
        step = int(given) if given.isdigit() and len(given) < 4 else 0
        if step < 1 or step > max(high - low, 1):
            raise UserError(f"{where}: step {given!r} must be a number from 1 to {max(high - low, 1)} here")
    return range(low, high + 1, step)


def _value(text: str, which: _Range, high: int, where: str) -> int:
    """A number or a name."""
    if text.lower() in which.names:
        return which.low + which.names.index(text.lower())
    if not text.isdigit() or len(text) > 3 or not which.low <= int(text) <= high:
        names = f" or {which.names[0].upper()} to {which.names[-1].upper()}" if which.names else ""
        raise UserError(f"{where}: {text!r} must be {which.low} to {high}{names}")
    return int(text)
