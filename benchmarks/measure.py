"""What the benchmarks share: contenders taking turns, and what a table is good for on another machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_REST = 0.1  # seconds


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call. ``wall``, ``cpu`` (processor time of all threads) are medians; ``best`` of the wall."""

    wall: float
    cpu: float
    best: float
    turns: int


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Call every contender ``rounds`` times in turn, after one turn that does not count.

    A machine that is busy for a while then slows all of them alike, so that ratios survive. Before each call the
    processor rests: thread pools go on spinning for some milliseconds after their work, and would take a core from
    whoever comes next.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            time.sleep(_REST)
            wall, processor = time.perf_counter(), time.process_time()
            work()
            taken = time.perf_counter() - wall, time.process_time() - processor
            if turn:
                spent[name].append(taken)
    return {
        name: Timing(
            wall=1000 * statistics.median(wall for wall, _ in times),
            cpu=1000 * statistics.median(processor for _, processor in times),
            best=1000 * min(wall for wall, _ in times),
            turns=rounds,
        )
        for name, times in spent.items()
    }


def surroundings(threads: int, packages: Sequence[str]) -> dict[str, Any]:
    """Processor, cores, threads used, and the versions of ``packages`` (None for one that is not installed)."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_at_end": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def resident_mib(field: str = "VmRSS") -> float:
    """Resident memory of this process now, or with ``VmHWM`` its peak since the start or :func:`forget_peak`; MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def forget_peak() -> None:
    """Let the peak of :func:`resident_mib` start again at what is held now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def write_json(path: Path | None, facts: Mapping[str, Any], rows: Sequence[Any]) -> None:
    """The figures of a run; dataclasses become dictionaries. Nothing is written without a path."""
    if path is None:
        return
    plain = [asdict(row) if hasattr(row, "__dataclass_fields__") else row for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "rows": plain}, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
