"""Progress on a terminal as a bar with the time left, elsewhere as a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_PLAIN_INTERVAL = 15.0  # seconds between lines when standard error is not a terminal


class Progress:
    """Counts work done; made by :func:`progress`."""

    def __init__(self, label: str, total: int, start: int = 0) -> None:
        self.label, self.total, self.done, self.start = label, total, start, start
        self.note = ""
        self._began = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Add ``count`` finished units; ``note`` is shown beside them, the loss for example."""
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self._last >= _PLAIN_INTERVAL:
            self._last = now
            rate = (self.done - self.start) / (now - self._began)
            left = (self.total - self.done) / rate if rate > 0 else float("inf")
            print(f"{self.label}: {self.done}/{self.total} {self.note} ({left:.0f} s left)", file=sys.stderr)


class _BarProgress(Progress):
    def __init__(self, label: str, total: int, start: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        super().__init__(label, total, start)
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task(label, total=total, completed=start, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        self.bar.update(self.task, advance=count, note=self.note)


@contextmanager
def progress(label: str, total: int, start: int = 0) -> Iterator[Progress]:
    """Show progress of ``total`` units on standard error; ``start`` of them are done already."""
    if not sys.stderr.isatty():
        yield Progress(label, total, start)
        return
    bar = _BarProgress(label, total, start)
    with bar.bar:
        yield bar


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Iterate over ``items`` under a progress display."""
    with progress(label, total) as shown:
        for item in items:
            yield item
            shown.advance()
