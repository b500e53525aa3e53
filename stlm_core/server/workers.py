"""The threads that inspect images, and the bounded queue in front of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from stlm_core.server.metrics import Metrics
from stlm_core.server.problems import ProblemError
from stlm_core.server.settings import Limits

T = TypeVar("T")


class Workers:
    """A fixed number of threads: ONNX Runtime and Pillow let go of Python's lock while they compute.

    Places are taken and given back on the event loop's thread, so they need no lock of their own. A job that ran out
    of time keeps its place until its thread has finished it: what is in memory stays bounded.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="inspect")
        self._taken = 0

    async def run(self, jobs: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """Run jobs; each gives its result or its exception, in order.

        Raises:
            ProblemError: 503 when not all of them find a place, 504 when they are not done in time.
        """
        if self._taken + len(jobs) > self._limits.places:
            raise ProblemError(503, f"all {self._limits.places} places are taken; try again in a moment")
        loop = asyncio.get_running_loop()
        futures = [self._submit(loop, job) for job in jobs]
        waiting = [asyncio.wrap_future(future) for future in futures]
        for each in waiting:
            each.add_done_callback(_seen)
        _, late = await asyncio.wait(waiting, timeout=self._limits.work_seconds)
        if late:
            for future in futures:
                future.cancel()  # those that no thread has begun
            raise ProblemError(504, f"not done within {self._limits.work_seconds:g} seconds")
        results: list[T | Exception] = []
        for each in waiting:
            error = each.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            results.append(each.result() if error is None else error)
        return results

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, loop: asyncio.AbstractEventLoop, job: Callable[[], T]) -> Future[T]:
        held = [job]  # the pool keeps what is cancelled until a thread comes to it; its image must not stay with it

        def run() -> T:
            return held.pop()()

        future = self._pool.submit(run)
        future.add_done_callback(lambda _: held.clear())
        self._count(+1)
        future.add_done_callback(lambda _: self._give_back(loop))
        return future

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
            loop.call_soon_threadsafe(self._count, -1)

    def _count(self, change: int) -> None:
        self._taken += change
        self._metrics.working.set(min(self._taken, self._limits.workers))
        self._metrics.waiting.set(max(0, self._taken - self._limits.workers))


def _seen(future: asyncio.Future[Any]) -> None:
    """An exception that came too late for its request is not reported a second time."""
    if not future.cancelled():
        future.exception()
