"""The last inspections, in memory only and no more than a fixed number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from stlm_core.server.inspection import Result
from stlm_core.server.schemas import RecentInspection


@dataclass(frozen=True)
class Remembered:
    """What was answered, and what it was about."""

    answer: RecentInspection
    result: Result


class RecentInspections:
    """The newest ``kept`` inspections; at most 2.4 MB each (``SHOWN_SIDE``)."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self._entries: OrderedDict[str, Remembered] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, entry: Remembered) -> None:
        """Remember one and forget the oldest."""
        if self.kept == 0:
            return
        with self._lock:
            self._entries[entry.result.id] = entry
            while len(self._entries) > self.kept:
                self._entries.popitem(last=False)

    def newest_first(self) -> list[Remembered]:
        """All that are remembered."""
        with self._lock:
            return list(reversed(self._entries.values()))

    def get(self, name: str) -> Remembered | None:
        """One of them; None if it was never one or has been forgotten."""
        with self._lock:
            return self._entries.get(name)

    def forget(self) -> None:
        """Drop them all."""
        with self._lock:
            self._entries.clear()
