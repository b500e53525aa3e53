"""What `schedule apply` decides to do, from what is wanted and what is there."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.schedules import Found, Schedule, ours, plan

WANTED = Schedule("sample", "stlm-training-cpu", "ir-0123", "0 0 2 * * *", {"line": "sample", "steps": 40})


def found(schedule: Schedule = WANTED, *, run_id: str = "a", enabled: bool = True) -> Found:
    return Found(run_id, schedule.line, schedule.spec, enabled, schedule.cron, schedule.arguments)


def listed(**changed: Any) -> Any:
    """A recurring run of ours as the API lists it."""
    body = WANTED.body("experiment", None, True)
    for name, value in {"recurring_run_id": "a", "status": "ENABLED", **changed}.items():
        setattr(body, name, value)
    return body


def test_what_is_right_is_kept() -> None:
    (change,) = plan([WANTED], [found()])
    assert (change.action, change.drop) == ("keep", ())
    assert str(change) == "sample: keep: 0 0 2 * * *"


def test_a_missing_one_is_created_and_one_without_a_line_removed() -> None:
    other = replace(WANTED, line="caps")
    create, remove = plan([other], [found()])
    assert (create.line, create.action) == ("caps", "create")
    assert (remove.line, remove.action, remove.drop) == ("sample", "remove", (found(),))


def test_only_one_line() -> None:
    other = replace(WANTED, line="caps")
    assert [change.line for change in plan([WANTED, other], [], only="caps")] == ["caps"]
    assert plan([WANTED], [found()], only="caps") == []


def test_a_replacement_says_what_is_new() -> None:
    newer = replace(WANTED, cron="0 0 3 * * *", arguments={"line": "sample", "steps": 80})
    (change,) = plan([newer], [found()])
    assert (change.action, change.keep, change.drop) == ("replace", None, (found(),))
    assert change.reason == "cron 0 0 2 * * * -> 0 0 3 * * *; arguments steps"
    (change,) = plan([replace(WANTED, version="ir-4567")], [found()])
    assert change.reason == "pipeline stlm-training-cpu ir-4567"


def test_pausing_is_no_replacement() -> None:
    assert plan([replace(WANTED, enabled=False)], [found()])[0].action == "pause"
    assert plan([WANTED], [found(enabled=False)])[0].action == "resume"


def test_of_two_right_ones_the_enabled_one_stays() -> None:
    paused, running = found(run_id="a", enabled=False), found(run_id="b")
    (change,) = plan([WANTED], [paused, running])
    assert (change.action, change.keep, change.drop) == ("finish", running, (paused,))


def test_foreign_recurring_runs_are_none_of_ours() -> None:
    assert ours([listed()]) == [found()]
    assert ours([listed(display_name="stlm-caps")]) == []
    assert ours([listed(description=None)]) == []
    assert ours([listed(description="somebody's nightly run")]) == []
    # The API lists what it could not read as an id and an error.
    assert ours([SimpleNamespace(recurring_run_id="a", description=None, display_name=None)]) == []


@given(st.lists(st.sampled_from(["a", "b", "c"]), unique=True), st.booleans())
def test_the_spec_tells_everything_apart_but_being_paused(shuffled: list[str], enabled: bool) -> None:
    arguments = dict.fromkeys(shuffled, 1)
    first = replace(WANTED, arguments=arguments)
    assert replace(first, arguments=dict(reversed(arguments.items())), enabled=enabled).spec == first.spec
    for other in (
        {"cron": "0 0 3 * * *"},
        {"version": "ir-1"},
        {"pipeline": "x"},
        {"arguments": {**arguments, "d": 1}},
    ):
        assert replace(first, **other).spec != first.spec
