"""Schedules of other time zones fire at the same moments in the cluster's, or are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import robfig_cron
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cron import parse
from pipelines.timezones import in_cluster_time, zone
from stlm_core.errors import UserError

SETTING = "lines.sample.schedule.timezone"
TODAY = datetime(2026, 3, 1, tzinfo=UTC)
_ZONES = st.sampled_from(
    ["UTC", "Asia/Tokyo", "Asia/Kolkata", "America/Sao_Paulo", "Europe/Berlin", "Europe/London", "Pacific/Kiritimati"]
)
_SPECS = st.builds(
    "{} {} {} {} {}".format,
    st.sampled_from(["0", "15", "0,30", "*/20", "50-59"]),
    st.sampled_from(["2", "23", "0,12", "*", "*/6", "20-23"]),
    st.sampled_from(["*", "1", "1-31", "*/2"]),
    st.sampled_from(["*", "JAN-JUN", "3"]),
    st.sampled_from(["*", "MON", "MON-FRI", "0-6", "*/3", "SUN"]),
)


@settings(max_examples=80, deadline=None)
@given(_SPECS, _ZONES, _ZONES, st.integers(0, 5 * 365))
def test_the_rewritten_schedule_fires_at_the_same_moments(spec: str, here: str, cluster: str, days: int) -> None:
    cron = parse(spec, SETTING)
    try:
        moved = in_cluster_time(cron, here, cluster, SETTING, TODAY)
    except UserError:
        return
    theirs = robfig_cron.parse(moved.text)
    ours = robfig_cron.parse(cron.text)
    start = TODAY + timedelta(days=days)
    for step in range(0, 3 * 24 * 60, 5):
        moment = start + timedelta(minutes=step)
        wanted = robfig_cron.fires(ours, moment.astimezone(ZoneInfo(here)))
        assert robfig_cron.fires(theirs, moment.astimezone(ZoneInfo(cluster))) == wanted, (spec, moved.text, moment)


@pytest.mark.parametrize(
    ("spec", "here", "cluster", "text"),
    [
        ("0 2 * * *", "UTC", "UTC", "0 0 2 * * *"),
        ("0 2 * * *", "Asia/Tokyo", "UTC", "0 0 17 * * *"),
        ("0 2 * * MON", "Asia/Tokyo", "UTC", "0 0 17 * * 0"),
        ("0 12 1 * *", "Asia/Tokyo", "UTC", "0 0 3 1 * *"),
        ("30 2 * * *", "Asia/Kolkata", "UTC", "0 0 21 * * *"),
        ("0 2 1 * *", "Europe/Paris", "Europe/Berlin", "0 0 2 1 * *"),
        ("0 2 * * *", "Europe/Lisbon", "Europe/Berlin", "0 0 3 * * *"),
    ],
)
def test_rewriting(spec: str, here: str, cluster: str, text: str) -> None:
    assert in_cluster_time(parse(spec, SETTING), here, cluster, SETTING, TODAY).text == text


@pytest.mark.parametrize(
    ("spec", "here", "reason"),
    [
        ("0 2 * * *", "Europe/Berlin", "drift apart over the year"),
        ("0 2 1 * *", "Asia/Tokyo", "falls on other days"),
        ("0 2 * 1-6 *", "Asia/Tokyo", "falls on other days"),
        ("0 2,12 * * MON", "Asia/Tokyo", "falls on other days"),
        ("0,30 2 * * *", "Asia/Kolkata", "different hours"),
    ],
)
def test_what_no_cron_can_say_is_refused_with_the_way_out(spec: str, here: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        in_cluster_time(parse(spec, SETTING), here, "UTC", SETTING, TODAY)
    assert f"--cluster-timezone {here}" in str(caught.value)


@pytest.mark.parametrize("name", ["", "Berlin", "Europe/Berln", "../etc/passwd", "/etc/localtime", "CEST", "UTC+1"])
def test_unknown_zones_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^lines\.sample\.schedule\.timezone: .*is not an IANA time zone"):
        zone(name, SETTING)


def test_a_misspelt_zone_gets_a_hint() -> None:
    with pytest.raises(UserError, match=r"did you mean Europe/Berlin\?"):
        zone("Europe/Berln", SETTING)
