"""Work done by a background thread while the caller computes: numpy's copies, checksums and files release the GIL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Like ``map``, but while one result is in use the next is made; never more than two exist.

    What ``work`` raises is raised where its result would have come.
    """
    with ThreadPoolExecutor(1) as pool:
        upcoming = [pool.submit(work, item) for item in items[:1]]
        for item in items[1:]:
            result = upcoming.pop().result()
            upcoming.append(pool.submit(work, item))
            yield result
            del result  # else it lives on beside the next two
        if upcoming:
            yield upcoming.pop().result()
