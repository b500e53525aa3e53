"""How long one image takes in ONNX Runtime on this machine's CPU."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stlm_core.runtime.model import DetectorSession

_WARM_UP = 3
_REST = 0.1  # seconds: ONNX Runtime's threads spin after their work and would take a core from whoever is next


@dataclass(frozen=True)
class LatencyReport:
    """Wall time of single images, milliseconds, from pixels in memory to score, map and decision.

    Decoding the file is not in it. ``threads``: 0 means ONNX Runtime's choice, all ``cores``. ``size_mb``: the file, in
    millions of bytes.
    """

    p50_ms: float
    p95_ms: float
    mean_ms: float
    min_ms: float
    runs: int
    warm_up: int
    width: int
    height: int
    threads: int
    cores: int
    cpu: str
    providers: tuple[str, ...]
    onnxruntime: str
    size_mb: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def measure_latency(
    session: DetectorSession,
    image: npt.NDArray[np.uint8],
    runs: int,
    *,
    threads: int = 0,
    on_run: Callable[[], None] = lambda: None,
) -> LatencyReport:
    """Time ``runs`` predictions of ``image``, uint8 (H, W, 3), after a warm-up; ``threads`` is what the session has."""
    (report,) = measure_in_turns([session], image, runs, threads=threads, on_run=on_run)
    return report


def measure_in_turns(
    sessions: Sequence[DetectorSession],
    image: npt.NDArray[np.uint8],
    runs: int,
    *,
    threads: int = 0,
    on_run: Callable[[], None] = lambda: None,
) -> list[LatencyReport]:
    """:func:`measure_latency` of several files that take turns, so that other work on the machine slows all alike.

    ``on_run`` is called after every turn of all.
    """
    batch = image[None]
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(_WARM_UP + runs):
        for session, own in zip(sessions, times, strict=True):
            if len(sessions) > 1:
                time.sleep(_REST)
            began = time.perf_counter()
            session.predict(batch)
            own.append((time.perf_counter() - began) * 1000)
        if turn >= _WARM_UP:
            on_run()
    return [_report(session, image, own[_WARM_UP:], threads) for session, own in zip(sessions, times, strict=True)]


def _report(
    session: DetectorSession, image: npt.NDArray[np.uint8], times: Sequence[float], threads: int
) -> LatencyReport:
    import onnxruntime

    return LatencyReport(
        p50_ms=round(float(np.percentile(times, 50)), 3),
        p95_ms=round(float(np.percentile(times, 95)), 3),
        mean_ms=round(float(np.mean(times)), 3),
        min_ms=round(min(times), 3),
        runs=len(times),
        warm_up=_WARM_UP,
        width=image.shape[1],
        height=image.shape[0],
        threads=threads,
        cores=usable_cores(),
        cpu=cpu_model(),
        providers=session.providers,
        onnxruntime=onnxruntime.__version__,
        size_mb=round(session.size_bytes / 1e6, 3),
    )


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
