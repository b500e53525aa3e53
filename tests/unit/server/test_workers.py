"""What the bounded queue keeps of jobs that ran out of time."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from stlm_core.server.metrics import Metrics
from stlm_core.server.problems import ProblemError
from stlm_core.server.settings import Limits
from stlm_core.server.workers import Workers


class Image:
    """Bytes of a request; unlike ``bytes`` it can be watched."""


def test_an_image_that_nobody_waits_for_is_let_go() -> None:
    workers = Workers(Limits(workers=1, queue=16, work_seconds=0.05), Metrics())
    stop = threading.Event()
    images: list[weakref.ref[Image]] = []

    async def crowd() -> None:
        with pytest.raises(ProblemError, match="not done within"):
            await workers.run([lambda: stop.wait(30)])
        for _ in range(40):
            image = Image()
            images.append(weakref.ref(image))
            with pytest.raises(ProblemError, match="not done within"):
                await workers.run([lambda image=image: id(image)])
            del image
        gc.collect()
        assert not [image for image in images if image() is not None]
        stop.set()
        for _ in range(100):
            try:
                assert await workers.run([lambda: 7]) == [7]
                return
            except ProblemError:
                await asyncio.sleep(0.05)
        pytest.fail("the worker never came back")

    try:
        asyncio.run(crowd())
    finally:
        stop.set()
        workers.close()
