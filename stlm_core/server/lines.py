"""Every line's champion, and the one thread that keeps them up to date."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from stlm_core.addresses import without_credentials
from stlm_core.errors import StlmError, UserError, first_line
from stlm_core.server.cache import Cache
from stlm_core.server.champion import Candidate, Champion, prepare
from stlm_core.server.logs import log
from stlm_core.server.metrics import Metrics
from stlm_core.server.sources import Opened, Source

Outcome = Literal["swapped", "unchanged", "refused", "unreachable"]
_FIRST_WAIT, _LONGEST_WAIT = 10.0, 300.0  # seconds until a refused champion is tried again


@dataclass(frozen=True)
class Refusal:
    """A candidate that did not come into service; it is tried again after ``wait`` seconds, at ``until``."""

    identity: tuple[str, str]
    why: str
    wait: float
    until: float
    had: bool  # its file, so that the model itself is to blame


@dataclass
class Line:
    """One line. Written by the watching thread only; readers take ``champion`` once and keep it.

    ``error``: why the newest champion is not in service, None when it is.
    """

    name: str
    champion: Champion | None = None
    error: str | None = None
    swaps: int = 0
    failed_swaps: int = 0
    refusal: Refusal | None = None


@dataclass(frozen=True)
class SourceState:
    """How the source answered last. ``error``: None when it did."""

    name: str
    answered_at: datetime | None
    error: str | None


class Lines:
    """Champions in service.

    Args:
        wanted: the lines to serve; None for all that have a champion, those to come included.
        public_key: with it, every model must be signed.
        threads: see :class:`~stlm_core.server.settings.Limits`.
        poll_seconds: how often the source is asked.
    """

    def __init__(
        self,
        source: Source,
        wanted: Sequence[str] | None,
        *,
        metrics: Metrics,
        cache: Cache | None = None,
        public_key: Path | None = None,
        threads: int = 1,
        poll_seconds: float = 10.0,
    ) -> None:
        self._source, self._wanted, self._cache = source, wanted, cache
        self._metrics, self._public_key, self._threads, self._poll = metrics, public_key, threads, poll_seconds
        self._lines: dict[str, Line] = {name: Line(name) for name in wanted or ()}
        self._first: frozenset[str] = frozenset()  # the lines that there were at the start
        self.source = SourceState(source.name, None, None)
        self._asked: queue.SimpleQueue[tuple[str, Future[Outcome]] | None] = queue.SimpleQueue()
        self._pending: dict[str, Future[Outcome]] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="champions", daemon=True)

    def start(self) -> None:
        """Load what is to be served, then watch for changes in a thread.

        Raises:
            StlmError: not one line has a model, neither from the source nor from the cache.
        """
        unreachable = self._check_all()
        if self._cache is not None:
            self._start_from_cache(self._cache)
        if not any(line.champion for line in self._lines.values()):
            if unreachable is not None:
                raise unreachable
            errors = [line.error for line in self._lines.values() if line.error]
            nothing = f"{self.source.name}: no line has a champion; promote one with `stlm promote`"
            refused = any(line.refusal for line in self._lines.values())
            raise (StlmError if refused else UserError)("; ".join(errors) or nothing)
        self._first = frozenset(self._lines)
        self._thread.start()

    def stop(self, patience: float) -> bool:
        """Let the thread end; returns whether it did within ``patience`` seconds.

        Python cannot end while another thread loads a model: what ONNX Runtime then calls is gone.
        """
        self._stopping.set()
        self._asked.put(None)
        if self._thread.is_alive():
            self._thread.join(patience)
        return not self._thread.is_alive()

    def all(self) -> list[Line]:
        """The lines, by name."""
        return sorted(self._lines.values(), key=lambda line: line.name)  # a copy first: the thread may add one

    def get(self, name: str) -> Line | None:
        """One line; None if it is not served here."""
        return self._lines.get(name)

    @property
    def ready(self) -> bool:
        """Whether every line that was named has a model.

        Where all are served, one whose model is to blame or that came later must not stop the others; but a server that
        could not fetch a model must not take the place of one that has it.
        """
        lines = self.all()
        if self._wanted is not None:
            return bool(lines) and all(line.champion for line in lines)
        first = [line for line in lines if line.name in self._first]
        unfetched = any(not line.champion and line.refusal and not line.refusal.had for line in first)
        return not unfetched and any(line.champion for line in lines)

    def refresh(self, name: str) -> Future[Outcome]:
        """Ask the source for one line now; calls while one waits share its answer."""
        with self._lock:
            future = self._pending.get(name)
            if future is None:
                future = self._pending[name] = Future()
                self._asked.put((name, future))
            return future

    def _watch(self) -> None:
        due = time.monotonic() + self._poll
        while True:
            if time.monotonic() >= due:
                self._check_all()
                due = time.monotonic() + self._poll
            try:
                asked = self._asked.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                continue
            if asked is None:
                return
            name, future = asked
            with self._lock:
                self._pending.pop(name, None)
            future.set_result(self._refresh(self._lines[name]))

    def _refresh(self, line: Line) -> Outcome:
        before = line.champion
        if line.refusal is not None:
            line.refusal = replace(line.refusal, until=0.0)
        if self._check_all(only=line.name) is not None:
            return "unreachable"
        if line.error is not None:
            return "refused"
        return "unchanged" if _same(before, line.champion) else "swapped"

    def _check_all(self, only: str | None = None) -> StlmError | None:
        """Ask the source for every line, or one; what went wrong with the source itself, None if it answered."""
        try:
            with self._source.opened() as opened:
                if self._wanted is None and only is None:
                    for name in opened.lines():
                        self._lines.setdefault(name, Line(name))
                for line in [self._lines[only]] if only else self.all():
                    if not self._stopping.is_set():
                        self._check(opened, line)
        except Exception as error:  # the server outlives whatever its registry does
            told = sentence(error)
            if self.source.error != told:
                log("registry does not answer", logging.WARNING, source=self._source.name, error=told)
            self.source = replace(self.source, name=self._source.name, error=told)
            self._metrics.source_up.set(0)
            return error if isinstance(error, StlmError) else StlmError(told)
        if self.source.error is not None:
            log("registry answers again", source=self._source.name)
        self.source = SourceState(self._source.name, datetime.now(UTC), None)
        self._metrics.source_up.set(1)
        self._metrics.source_checked.set_to_current_time()
        return None

    def _check(self, opened: Opened, line: Line) -> None:
        try:
            offer = opened.offer(line.name)
            if offer is None:
                kept = f"; version {line.champion.version} stays in service" if line.champion else ""
                self._note(line, f"line {line.name}: no champion in {self._source.name}{kept}")
                return
            candidate = offer.candidate
            if line.champion is not None and line.champion.candidate.identity == candidate.identity:
                if line.champion.candidate != candidate:  # started from the cache, or its tags have changed
                    line.champion = replace(line.champion, candidate=candidate)
                line.error, line.refusal = None, None
                return
            refusal = line.refusal if line.refusal and line.refusal.identity == candidate.identity else None
            if refusal is not None and time.monotonic() < refusal.until:
                line.error = refusal.why
                return
        except Exception as error:  # of this line only: the others are asked all the same
            self._note(line, sentence(error))
            return
        content: bytes | None = None
        try:
            content = self._cache.content(candidate) if self._cache else None
            content = content if content is not None else offer.content()
            champion = prepare(candidate, content, public_key=self._public_key, threads=self._threads)
        except Exception as error:  # a broken model can make ONNX Runtime raise anything
            self._refuse(line, candidate, sentence(error), had=content is not None)
            return
        self._install(line, champion)
        if self._cache is not None:
            try:
                self._cache.put(candidate, content)
            except (StlmError, OSError) as error:
                log("champion not kept in the cache", logging.WARNING, line=line.name, error=sentence(error))

    def _refuse(self, line: Line, candidate: Candidate, why: str, *, had: bool) -> None:
        line.failed_swaps += 1
        self._metrics.failed_swaps.labels(line.name).inc()
        earlier = line.refusal if line.refusal and line.refusal.identity == candidate.identity else None
        wait = min(2 * earlier.wait, _LONGEST_WAIT) if earlier else _FIRST_WAIT
        stays = f"; version {line.champion.version} stays in service" if line.champion else ""
        told = f"version {candidate.version} of line {line.name} was refused: {why}{stays}"
        line.error, line.refusal = told, Refusal(candidate.identity, told, wait, time.monotonic() + wait, had)
        log("champion refused", logging.ERROR, line=line.name, version=candidate.version, error=told)

    def _install(self, line: Line, champion: Champion) -> None:
        replaced, line.champion = line.champion, champion
        line.error, line.refusal = None, None
        line.swaps += replaced is not None
        self._metrics.installed(champion, replaced)
        log(
            "champion in service",
            line=line.name,
            version=champion.version,
            sha256=champion.session.sha256,
            source=champion.candidate.source,
            signed=champion.candidate.signature is not None and self._public_key is not None,
            replaces=replaced.version if replaced else None,
            warm_ms=round(champion.warm_ms, 2),
        )

    def _note(self, line: Line, error: str) -> None:
        if line.error != error:
            log("champion not known", logging.WARNING, line=line.name, error=error)
        line.error = error

    def _start_from_cache(self, cache: Cache) -> None:
        for name in cache.lines() if self._wanted is None and self.source.error else self._lines:
            line = self._lines.setdefault(name, Line(name))
            if line.champion is not None:
                continue
            why = line.error or self.source.error
            try:
                candidate = cache.get(name)
                if candidate is None:
                    continue
                champion = prepare(candidate, cache.need(candidate), public_key=self._public_key, threads=self._threads)
            except Exception as error:
                self._note(line, f"{why}; and from the cache: {sentence(error)}")
                continue
            self._install(line, champion)
            line.error = f"{why}; started from the cache with version {candidate.version}"
            log("started from the cache", logging.WARNING, line=name, version=candidate.version, error=why)


def sentence(error: BaseException) -> str:
    """What went wrong, without credentials."""
    if isinstance(error, StlmError):
        return str(error)
    return f"{type(error).__name__}: {without_credentials(first_line(error))}"  # type: ignore[arg-type]


def _same(one: Champion | None, other: Champion | None) -> bool:
    return one is not None and other is not None and one.candidate.identity == other.candidate.identity
