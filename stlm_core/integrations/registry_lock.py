"""One command at a time changes a line's versions and aliases, from whatever machine: a lock kept by MLflow's server.

MLflow has no compare-and-set, but the tags of a registered model are registers: one request writes one tag whole, and
later reads see it. Lamport's bakery algorithm (CACM 1974) makes a lock of such registers. Every contender has a tag of
its own, ``stlm.lock.<token>``. It first says that it is choosing, then reads all numbers and takes the next one, then
waits until no other is choosing and none has a smaller number (the token decides among equals). Whoever was not there
when the numbers were read will read ours and take a larger one; whoever was choosing is waited for. So no two hold it
at once.

A contender that dies would hold up the others for ever, so an entry counts until the time it states, and no longer
than its process where that can be seen. It is renewed
while waiting; a holder whose time has run out writes no more. This assumes clocks of the machines within
:data:`CLOCK_SKEW` seconds, and that a request which the holder sent in time does not arrive later than that; were it
to, the state it leaves is one that the next command repairs, as after a kill.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from stlm_core.errors import StlmError, UserError

PREFIX = "stlm.lock."
LEASE = 90.0
"""Seconds that an entry counts; a command's own writes take a second or two."""

CLOCK_SKEW = 20.0
WAIT = 120.0
"""Seconds to wait for the others."""

_POLL = 0.25


class TagStore(Protocol):
    """Where the entries are: tags of one registered model."""

    def read(self) -> Mapping[str, str]:
        """All tags."""

    def write(self, key: str, value: str) -> None:
        """Set one tag."""

    def remove(self, key: str) -> None:
        """Remove one tag; nothing happens if it is gone."""


@dataclass(frozen=True)
class _Entry:
    token: str
    choosing: bool
    number: int
    until: float
    who: str
    home: str
    process: int

    @property
    def rank(self) -> tuple[int, str]:
        return self.number, self.token

    def text(self) -> str:
        stated = asdict(self)
        del stated["token"]
        return json.dumps(stated)


class Lease:
    """The right to write, for a while."""

    def __init__(self, until: float, clock: Callable[[], float], what: str) -> None:
        self._until, self._clock, self._what = until, clock, what

    def check(self) -> None:
        """To be called before every write.

        Raises:
            StlmError: the time is up; another command may be at it by now.
        """
        if self._clock() >= self._until:
            raise StlmError(f"{self._what}: the registry was too slow, and another command may go on; run it again")


@contextmanager
def bakery_lock(
    store: TagStore,
    what: str,
    *,
    lease: float = LEASE,
    wait: float = WAIT,
    clock: Callable[[], float] = time.time,
) -> Iterator[Lease]:
    """Hold the lock.

    Args:
        store: the tags of the registered model, which must exist.
        what: what wants it, for those who wait, such as "line bottle: promote".
        lease: seconds for the whole ``with`` block, counted from its beginning.

    Raises:
        UserError: others hold it for longer than ``wait`` seconds; the message says who.
    """
    token, process = secrets.token_hex(8), os.getpid()
    key, deadline = PREFIX + token, clock() + wait
    who = f"{what} on {socket.gethostname()}, process {process}"

    def put(choosing: bool, number: int) -> _Entry:
        entry = _Entry(token, choosing, number, clock() + lease + CLOCK_SKEW, who, _home(), process)
        store.write(key, entry.text())
        return entry

    try:
        entry = put(True, 0)
        entry = put(False, 1 + max((other.number for other in _others(store, token, clock)), default=0))
        while ahead := [other for other in _others(store, token, clock) if other.choosing or other.rank < entry.rank]:
            if clock() >= deadline:
                raise UserError(f"{what}: busy for {wait:.0f} s with {ahead[0].who}; try again later")
            time.sleep(_POLL)
            if entry.until - clock() < lease / 2 + CLOCK_SKEW:
                entry = _renewed(entry, put, clock, what)
        entry = _renewed(entry, put, clock, what)
        yield Lease(entry.until - CLOCK_SKEW, clock, what)
    finally:
        store.remove(key)


def _renewed(entry: _Entry, put: Callable[[bool, int], _Entry], clock: Callable[[], float], what: str) -> _Entry:
    """The same place in the queue for longer; an entry that has run out has lost its place."""
    if clock() >= entry.until - CLOCK_SKEW:
        raise StlmError(f"{what}: the registry was too slow, and another command may go on; run it again")
    return put(False, entry.number)


def _others(store: TagStore, token: str, clock: Callable[[], float]) -> list[_Entry]:
    """The entries that count, without our own; those whose time is over are cleared away."""
    found = []
    for key, value in store.read().items():
        if not key.startswith(PREFIX) or key == PREFIX + token:
            continue
        entry = _parse(key.removeprefix(PREFIX), value)
        if entry is None or clock() > entry.until or _is_dead(entry):
            store.remove(key)
        else:
            found.append(entry)
    return found


@functools.cache
def _home() -> str:
    """Names this machine since its start and the numbering of its processes that we see; "" where Linux cannot say."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{started}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _is_dead(entry: _Entry) -> bool:
    """Whether it is known that the process is gone: nobody needs to wait for its time to run out then."""
    if not entry.home or entry.home != _home():
        return False
    try:
        os.kill(entry.process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _parse(token: str, value: str) -> _Entry | None:
    try:
        read = json.loads(value)
        return _Entry(
            token,
            bool(read["choosing"]),
            int(read["number"]),
            float(read["until"]),
            str(read["who"]),
            str(read["home"]),
            int(read["process"]),
        )
    except (ValueError, LookupError, TypeError):
        return None
