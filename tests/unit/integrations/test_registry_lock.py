"""The bakery lock on registers in memory: mutual exclusion whatever the order of reads and writes, and the dead."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

import pytest

from stlm_core.errors import StlmError, UserError
from stlm_core.integrations import registry_lock
from stlm_core.integrations.registry_lock import CLOCK_SKEW, PREFIX, bakery_lock


class Registers:
    """Tags in memory; a request takes a moment, before and after it takes effect."""

    def __init__(self, pause: float = 0.0) -> None:
        self.tags: dict[str, str] = {"owner": "line 3"}
        self._pause = pause

    def _wait(self) -> None:
        if self._pause:
            time.sleep(random.random() * self._pause)

    def read(self) -> Mapping[str, str]:
        self._wait()
        found = dict(self.tags)
        self._wait()
        return found

    def write(self, key: str, value: str) -> None:
        self._wait()
        self.tags[key] = value
        self._wait()

    def remove(self, key: str) -> None:
        self._wait()
        self.tags.pop(key, None)


def entry(until: float, *, choosing: bool = False, number: int = 1, home: str = "elsewhere", process: int = 1) -> str:
    stated = {"choosing": choosing, "number": number, "until": until, "who": "line x: promote on host-b"}
    return json.dumps({**stated, "home": home, "process": process})


def test_no_two_are_inside_at_once_and_all_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_lock, "_POLL", 0.001)
    store, inside, most, entered = Registers(pause=0.002), [0], [0], []

    def contend(number: int) -> None:
        for _ in range(5):
            with bakery_lock(store, f"contender {number}") as lease:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                lease.check()
                entered.append(number)
                inside[0] -= 1

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert sorted(entered) == sorted([*range(8)] * 5)
    assert store.tags == {"owner": "line 3"}


@pytest.mark.parametrize("choosing", [False, True])
def test_who_is_there_is_waited_for_and_named(choosing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_lock, "_POLL", 0.001)
    store = Registers()
    store.tags[f"{PREFIX}other"] = entry(time.time() + 60, choosing=choosing)
    with (
        pytest.raises(
            UserError, match=r"line a: promote: busy for 0 s with line x: promote on host-b; try again later"
        ),
        bakery_lock(store, "line a: promote", wait=0.05),
    ):
        pytest.fail("entered")
    assert list(store.tags) == ["owner", f"{PREFIX}other"]


@pytest.mark.parametrize("left", [entry(time.time() - 1), "not JSON", "[]", json.dumps({"number": 1})])
def test_what_has_run_out_or_says_nothing_is_cleared_away(left: str) -> None:
    store = Registers()
    store.tags[f"{PREFIX}other"] = left
    with bakery_lock(store, "line a: promote"):
        assert f"{PREFIX}other" not in store.tags
    assert list(store.tags) == ["owner"]


def test_a_dead_process_of_this_machine_is_not_waited_for() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    home = registry_lock._home()
    if not home:
        pytest.skip("this system does not name its processes' home")
    store = Registers()
    store.tags[f"{PREFIX}dead"] = entry(time.time() + 60, home=home, process=gone.pid)
    with bakery_lock(store, "line a: promote", wait=0.0):
        pass
    store.tags[f"{PREFIX}alive"] = entry(time.time() + 60, home=home, process=os.getpid())
    with pytest.raises(UserError, match="busy"), bakery_lock(store, "line a: promote", wait=0.0):
        pytest.fail("entered")


def test_a_holder_whose_time_is_up_writes_no_more() -> None:
    now = [1000.0]
    store = Registers()
    with bakery_lock(store, "line a: promote", lease=30, clock=lambda: now[0]) as lease:
        now[0] += 29.9
        lease.check()
        now[0] += 0.2
        with pytest.raises(StlmError, match="another command may go on; run it again"):
            lease.check()
        # Nobody else goes in before the clocks of all machines agree that it is over.
        with pytest.raises(UserError, match="busy"), bakery_lock(store, "line b", wait=0.0, clock=lambda: now[0]):
            pytest.fail("entered")
        now[0] += CLOCK_SKEW
        with bakery_lock(store, "line b", wait=0.0, clock=lambda: now[0]):
            pass


def test_a_place_in_the_queue_is_renewed_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    store = Registers()

    def pass_time(seconds: float) -> None:
        now[0] += 10
        if now[0] > 1150:
            store.tags.pop(f"{PREFIX}other", None)

    monkeypatch.setattr(time, "sleep", pass_time)
    store.tags[f"{PREFIX}other"] = entry(5000)
    with bakery_lock(store, "line a", lease=90, wait=300, clock=lambda: now[0]) as lease:
        assert now[0] >= 1150
        lease.check()


def test_a_place_that_was_lost_is_not_taken_for_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process slept for longer than its entry counts: others may be inside."""
    now = [1000.0]
    store = Registers()

    def sleep_long(seconds: float) -> None:
        now[0] += 1000

    monkeypatch.setattr(time, "sleep", sleep_long)
    store.tags[f"{PREFIX}other"] = entry(1500)
    with (
        pytest.raises(StlmError, match="too slow"),
        bakery_lock(store, "line a", lease=90, wait=5000, clock=lambda: now[0]),
    ):
        pytest.fail("entered")
