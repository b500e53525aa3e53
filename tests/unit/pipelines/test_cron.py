"""Cron expressions mean on the cluster what they mean in params.yaml, and none gets there that KFP refuses."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import robfig_cron
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.cron import MONTHS, WEEKDAYS, parse
from stlm_core.errors import UserError

SETTING = "lines.sample.schedule.cron"
_LIMITS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}


def crontab_fires(expression: str, moment: datetime) -> bool:
    """crontab(5) straight from its text: names, ranges, steps, two Sundays, either day field where both are set."""
    fields = dict(zip(_LIMITS, expression.split(), strict=True))
    now = {"minute": moment.minute, "hour": moment.hour, "day": moment.day, "month": moment.month}
    met = {name: value in _values(fields[name], name) for name, value in now.items()}
    weekday = bool({moment.isoweekday(), moment.isoweekday() % 7} & _values(fields["weekday"], "weekday"))
    if not (met["minute"] and met["hour"] and met["month"]):
        return False
    if fields["day"][0] in "*?" or fields["weekday"][0] in "*?":
        return met["day"] and weekday
    return met["day"] or weekday


def _values(field: str, name: str) -> set[int]:
    low, high = _LIMITS[name]
    names = {"month": {text: n for n, text in enumerate(MONTHS, 1)}, "weekday": {t: n for n, t in enumerate(WEEKDAYS)}}
    found: set[int] = set()
    for piece in field.lower().split(","):
        body, _, step = piece.partition("/")
        first, dash, last = body.partition("-")
        number = names.get(name, {})
        if first in "*?":
            start, end = low, high
        else:
            start = number.get(first) if first in number else int(first)
            # A start with a step and no end runs to the field's end, where Sunday is 0 only.
            open_end = (6 if name == "weekday" else high) if step else start
            end = (number[last] if last in number else int(last)) if dash else open_end
        found |= set(range(start, end + 1, int(step or 1)))
    return found


def pieces(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    """One piece of a field, most of them valid."""
    number = st.integers(low, high).map(str)
    value = st.one_of(number, st.sampled_from(names).map(str.upper)) if names else number
    step = st.one_of(st.just(""), st.integers(1, 4).map("/{}".format), st.integers(1, 40).map("/{}".format))
    return st.one_of(
        st.builds("*{}".format, step),
        st.builds("{}{}".format, value, step),
        st.builds("{}-{}{}".format, value, value, step),
        st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True).map(
            lambda ends: "{}-{}".format(*sorted(ends))
        ),
    )


def fields(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    lists = st.lists(pieces(low, high, names), min_size=1, max_size=3).map(",".join)
    # A star in the middle of a list is read differently by different crons, and says no more than a star.
    return lists.filter(lambda text: "*" not in text[1:] and ("*" not in text or "," not in text))


crontabs = st.builds(
    "{} {} {} {} {}".format,
    fields(0, 59),
    fields(0, 23),
    fields(1, 31),
    fields(1, 12, MONTHS),
    fields(0, 7, WEEKDAYS),
)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2031, 12, 31)).map(
    lambda when: when.replace(second=0, microsecond=0)
)


@settings(max_examples=100, deadline=None)
@given(crontabs, moments)
@example("0 2 * * 7", datetime(2026, 1, 4, 2, 0))
@example("0 2 13 * 5", datetime(2026, 1, 13, 2, 0))
@example("0 2 */2 * 1", datetime(2026, 1, 12, 2, 0))
@example("5/10 * * * *", datetime(2026, 1, 1, 0, 15))
@example("0 2 * * 007", datetime(2026, 1, 4, 2, 0))
def test_five_fields_fire_on_the_cluster_when_crontab_says(expression: str, moment: datetime) -> None:
    try:
        cron = parse(expression, SETTING)
    except UserError:
        return
    schedule = robfig_cron.parse(cron.text)
    # The day around the moment, minute by minute, would be slow: its hours and a few neighbours find every field.
    near = [moment + timedelta(minutes=step) for step in (*range(-70, 71, 7), *range(-40 * 1440, 40 * 1440, 1440))]
    for when in near:
        assert robfig_cron.fires(schedule, when) == crontab_fires(expression, when), (cron.text, when)
        assert not robfig_cron.fires(schedule, when.replace(second=1))
    assert cron.on(moment.date()) == any(
        robfig_cron.fires(schedule, moment.replace(hour=hour, minute=minute))
        for hour in cron.hour.values
        for minute in cron.minute.values
    )


_words = st.text(st.sampled_from("0123456789*/-,?@LW# =jmsfnuiort+"), max_size=6)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(st.lists(_words, max_size=8).map(" ".join), crontabs, crontabs.map("0 {}".format), st.text(max_size=30))
)
def test_whatever_is_accepted_the_backend_accepts_and_fires(expression: str) -> None:
    try:
        cron = parse(expression, SETTING)
    except UserError:
        return
    assert len(cron.text.split()) == 6
    schedule = robfig_cron.parse(cron.text)
    days = (datetime(2026, 1, 1) + timedelta(days=n) for n in range(5 * 366))
    clock = {field: min(getattr(cron, field).values) for field in ("hour", "minute", "second")}
    assert any(robfig_cron.fires(schedule, day.replace(**clock)) for day in days)


def test_six_fields_are_sent_as_they_are() -> None:
    assert parse("30 0 2 1-7 JAN,jul ?", SETTING).text == "30 0 2 1-7 JAN,jul ?"


def test_five_fields_get_second_zero_because_kfp_would_take_the_minute_for_it() -> None:
    assert parse("0 2 * * *", SETTING).text == "0 0 2 * * *"
    # What the same text would mean there: every hour at minute 2.
    misread = robfig_cron.parse("0 2 * * *")
    assert robfig_cron.fires(misread, datetime(2026, 1, 1, 13, 2))


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "has 0 fields"),
        ("0 2 * *", "has 4 fields"),
        ("0 0 2 * * * 2026", "has 7 fields"),
        ("@daily", "is a nickname"),
        ("@every 1h", "is a nickname"),
        ("CRON_TZ=Europe/Berlin 0 2 * * *", "the time zone has a setting of its own"),
        ("60 2 * * *", "minute '60': '60' must be 0 to 59"),
        ("0 24 * * *", "hour '24'"),
        ("0 2 0 * *", "day of the month '0'"),
        ("0 2 32 * *", "day of the month '32'"),
        ("0 2 * 13 *", "month '13': '13' must be 1 to 12 or JAN to DEC"),
        ("0 2 * JUNE *", "month 'JUNE'"),
        ("0 2 * * 8", "day of the week '8': '8' must be 0 to 7 or SUN to SAT"),
        ("0 2 * * FRI-MON", "runs backwards"),
        ("30-10 2 * * *", "runs backwards"),
        ("*/0 2 * * *", "step '0'"),
        ("*/90 2 * * *", "step '90'"),
        ("*/x 2 * * *", "step 'x'"),
        ("1,,2 2 * * *", "'' is not a value"),
        ("? 2 * * *", "`?` belongs to the two day fields"),
        ("0 2 L * *", "day of the month 'L'"),
        ("0 2 * * 1#2", "'1#2' is not a value"),
        ("0 2 *-5 * *", "'*-5' is not a value"),
        ("-1 2 * * *", "'-1' is not a value"),
        ("+1 2 * * *", "'+1' is not a value"),
        ("٣ 2 * * *", "is not a value"),
        ("0 0 30 2 *", "never"),
        ("0 0 31 4,6,9,11 *", "never"),
    ],
)
def test_nonsense_is_refused_by_its_setting(expression: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(expression, SETTING)
    assert str(caught.value).startswith(f"{SETTING}: ")
    assert reason in str(caught.value)


def test_a_leap_day_is_often_enough() -> None:
    assert parse("0 0 29 2 *", SETTING).text == "0 0 0 29 2 *"
