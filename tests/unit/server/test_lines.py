"""When a server of several lines may be sent requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from serving import OVERFLOWING, detector

from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes
from stlm_core.server.champion import Candidate
from stlm_core.server.lines import Line, Lines
from stlm_core.server.metrics import Metrics
from stlm_core.server.sources import Offer

BROKEN = detector("r1", line="broken", graph=OVERFLOWING)
"""Refused in its self-test."""


class Shelf:
    """A source with the ``files`` that a test puts there; ``ready_while_loading``: of ``server``, as each was taken."""

    name = "a shelf"

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.server: Lines | None = None
        self.ready_while_loading: dict[str, bool] = {}
        self.out_of_reach: set[str] = set()

    @contextmanager
    def opened(self) -> Iterator[Shelf]:
        yield self

    def lines(self) -> list[str]:
        return sorted(self.files)

    def offer(self, line: str) -> Offer | None:
        content = self.files.get(line)
        if content is None:
            return None

        def take() -> bytes:
            if self.server is not None:
                self.ready_while_loading[line] = self.server.ready
            if line in self.out_of_reach:
                raise StlmError("the store does not answer")
            return content

        return Offer(Candidate(line, "1", sha256_bytes(content), None, self.name, {}), take)


def served(shelf: Shelf, *wanted: str) -> Lines:
    """The champions of a shelf: of the lines ``wanted``, or of all."""
    lines = Lines(shelf, wanted or None, metrics=Metrics(), poll_seconds=0.05)
    shelf.server = lines
    return lines


def told(line: Line) -> bool:
    """Whether its model has come into service or was refused."""
    return line.champion is not None or line.error is not None


def test_a_server_of_all_lines_stays_ready_while_a_new_line_loads_or_is_refused() -> None:
    shelf = Shelf(tiny=detector("r1"))
    lines = served(shelf)
    lines.start()
    assert lines.ready
    shelf.files |= {"broken": BROKEN, "new": detector("r1", line="new")}
    deadline = time.monotonic() + 60
    while not (shelf.ready_while_loading.keys() >= shelf.files.keys() and all(map(told, lines.all()))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert shelf.ready_while_loading == {"tiny": False, "broken": True, "new": True}
    assert lines.ready
    broken, new, tiny = lines.all()
    assert broken.champion is None
    assert broken.failed_swaps
    assert "version 1 of line broken was refused" in (broken.error or "")
    assert new.champion
    assert tiny.champion
    assert lines.stop(60)


def test_a_server_that_could_not_fetch_a_model_is_not_ready() -> None:
    """Or it would take the place of one that has it."""
    shelf = Shelf(tiny=detector("r1"), other=detector("r1", line="other"), broken=BROKEN)
    shelf.out_of_reach = {"other"}
    lines = served(shelf)
    lines.start()
    assert not lines.ready
    shelf.out_of_reach = set()
    lines.refresh("other").result(60)
    assert lines.ready
    shelf.files["late"] = detector("r1", line="late")
    shelf.out_of_reach = {"late"}
    deadline = time.monotonic() + 60
    while (late := lines.get("late")) is None or not told(late):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert lines.ready
    assert lines.stop(60)


def test_a_server_of_named_lines_is_ready_when_every_one_has_a_model() -> None:
    shelf = Shelf(tiny=detector("r1"), broken=BROKEN)
    lines = served(shelf, "tiny", "broken")
    lines.start()
    assert not lines.ready
    shelf.files["broken"] = detector("r1", line="broken")
    lines.refresh("broken").result(60)
    assert lines.ready
    assert lines.stop(60)


@pytest.mark.parametrize("wanted", [(), ("broken",)])
def test_without_one_model_nothing_is_served(wanted: tuple[str, ...]) -> None:
    lines = served(Shelf(broken=BROKEN), *wanted)
    with pytest.raises(StlmError, match="version 1 of line broken was refused") as caught:
        lines.start()
    assert not isinstance(caught.value, UserError)
    assert not lines.ready
