"""Load on an inspection server: what it sustains against the bare network, and three promotions and a rollback.

`python benchmarks/serving/load.py MODEL IMAGES OUT` takes an exported model and a folder of images, makes a registry of
its own in a temporary folder, and writes OUT/load.json and OUT/rollback.log; the table goes to standard output. Server
and callers share the machine. About two minutes; use a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from scratch_registry import ScratchRegistry

from stlm_core.server.settings import Limits
from stlm_core.steps.promote import promote, rollback

HERE = Path(__file__).parent
CALLERS = (1, 2, 4, 8)
VERSIONS = 4
SWAP_CALLERS = 4
EVERY = 5.0  # seconds of rest before each change of champion
SHOWN = {"champion in service", "champion refused", "registry does not answer", "request failed"}


@dataclass(frozen=True)
class Answer:
    """One request. ``sent``: seconds since 1970; ``seconds``: until its answer."""

    sent: float
    seconds: float
    status: int
    version: str


class Server:
    """The server under load, after the bare measurement in the same process."""

    def __init__(self, registry: ScratchRegistry, model: Path, images: list[Path], seconds: float) -> None:
        self._bare, self._log = registry.root / "bare.json", registry.root / "server.log"
        options = ["--line", registry.line, "--params", str(registry.root / "params.yaml")]
        command = [sys.executable, str(HERE / "bare_then_serve.py"), str(model), str(seconds), str(self._bare)]
        command += [*map(str, images), "--", *options, "--port", "0", "--poll-seconds", "1"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("STLM_", "MLFLOW_"))}
        with self._log.open("wb") as stream:
            self._process = subprocess.Popen(command, stderr=stream, env=environment, cwd=registry.root)
        try:
            self.url = f"http://127.0.0.1:{self._port()}"
        except BaseException:
            self._process.kill()
            raise

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def wait_for(self, version: str) -> None:
        """Until that version is in service."""
        end = time.monotonic() + 60
        while [event["version"] for event in self.events() if event["event"] == "champion in service"][-1] != version:
            if time.monotonic() > end:
                raise SystemExit(f"version {version} is not in service after a minute")
            time.sleep(0.1)

    def bare(self) -> dict[str, dict[str, float]]:
        """Images a second without a server, by threads."""
        found: dict[str, dict[str, float]] = json.loads(self._bare.read_text())
        return found

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def _port(self) -> int:
        end = time.monotonic() + 180
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise SystemExit(f"the server ended:\n{self._log.read_text()}")
            for event in self.events():
                if event["event"] == "listening":
                    return int(event["port"])
            time.sleep(0.1)
        raise SystemExit("the server did not start in three minutes")


class Callers:
    """Callers in a process of their own; ``seconds``: None for until the end of the block."""

    def __init__(self, url: str, line: str, callers: int, seconds: float | None, images: list[Path]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._out = Path(self._folder.name) / "answers"
        command = [sys.executable, str(HERE / "callers.py"), url, line, str(callers)]
        command += ["-" if seconds is None else str(seconds), str(self._out), *map(str, images)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def answers(self) -> list[Answer]:
        """Let them end, and what they were answered."""
        self._process.communicate()
        if self._process.returncode:
            raise SystemExit("the callers failed")
        found = [Answer(*json.loads(text)) for text in self._out.read_text().splitlines()]
        self._folder.cleanup()
        return found


def load(url: str, line: str, callers: int, seconds: float, images: list[Path]) -> list[Answer]:
    """Let callers call for a while."""
    return Callers(url, line, callers, seconds, images).answers()


def figures(answers: list[Answer], bare: float) -> dict[str, Any]:
    """Rate, times in milliseconds and errors."""
    good = [answer.seconds * 1000 for answer in answers if answer.status == 200]
    span = max(answer.sent + answer.seconds for answer in answers) - min(answer.sent for answer in answers)
    p50, p95, p99 = np.percentile(good, (50, 95, 99)) if good else (float("nan"),) * 3
    return {
        "requests": len(answers),
        "errors": len(answers) - len(good),
        "statuses": dict(Counter(str(answer.status) for answer in answers)),
        "per_second": len(good) / span,
        "of_bare": len(good) / span / bare,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "max_ms": max(good, default=float("nan")),
    }


def steady(server: Server, line: str, images: list[Path], seconds: float) -> list[dict[str, Any]]:
    """One row a number of callers."""
    bare = server.bare()
    load(server.url, line, 2, 1.0, images)  # connections, caches
    rows = []
    for callers in CALLERS:
        threads = min(callers, len(bare))
        answers = load(server.url, line, callers, seconds, images)
        rows.append({"callers": callers, **figures(answers, bare[str(threads)]["bare"])})
    return rows


def swaps(server: Server, registry: ScratchRegistry, images: list[Path]) -> tuple[dict[str, Any], list[str]]:
    """Three promotions and a rollback while callers call; figures and the log of what happened."""
    done: list[tuple[float, str]] = []
    began = time.time()
    callers = Callers(server.url, registry.line, SWAP_CALLERS, None, images)
    for number in range(2, VERSIONS + 1):
        time.sleep(EVERY)
        registry.challenge(number)
        done.append((time.time(), f"stlm promote --line {registry.line} --force   (version {number})"))
        promote(registry.config, force=True, reason="load test")
        done.append((time.time(), f"alias champion -> {number}"))
        server.wait_for(str(number))
    time.sleep(EVERY)
    done.append((time.time(), f"stlm rollback --line {registry.line}"))
    back = rollback(registry.config, reason="load test")
    done.append((time.time(), f"alias champion -> {back.champion}, version {back.withdrawn} withdrawn"))
    server.wait_for(str(back.champion))
    time.sleep(EVERY)
    answers = callers.answers()
    bare = server.bare()
    row = {"callers": SWAP_CALLERS, **figures(answers, bare[str(min(SWAP_CALLERS, len(bare)))]["bare"])}
    row["versions"] = dict(Counter(answer.version for answer in answers))
    row["order"] = [version for version, _ in _runs([answer.version for answer in answers])]
    row["swaps"] = sum(event["event"] == "champion in service" and "replaces" in event for event in server.events())
    events = [(_seconds(event), _told(event)) for event in server.events() if event["event"] in SHOWN]
    told = [(at, f"server: {text}") for at, text in events if at >= began] + [(at, f"$ {text}") for at, text in done]
    return row, [f"{_clock(at)}  {text}" for at, text in sorted(told + _per_second(answers))]


def _runs(values: list[str]) -> list[tuple[str, int]]:
    """Equal neighbours together; around a swap callers overlap, so what is seen fewer than three times in a row is
    left out."""
    found: list[tuple[str, int]] = []
    for value in values:
        if found and found[-1][0] == value:
            found[-1] = (value, found[-1][1] + 1)
        else:
            found.append((value, 1))
    kept: list[tuple[str, int]] = []
    for value, count in found:
        if count >= 3 and (not kept or kept[-1][0] != value):
            kept.append((value, count))
    return kept


def _per_second(answers: list[Answer]) -> list[tuple[float, str]]:
    lines = []
    first = min(int(answer.sent) for answer in answers)
    for second in range(first, max(int(answer.sent) for answer in answers) + 1):
        now = [answer for answer in answers if int(answer.sent) == second]
        if not now:
            continue
        versions = ", ".join(
            f"{count} by version {name}" for name, count in sorted(Counter(a.version for a in now).items())
        )
        failed = sum(answer.status != 200 for answer in now)
        slowest = max(answer.seconds for answer in now) * 1000
        lines.append(
            (second + 0.999, f"callers: {len(now)} answers ({versions}), {failed} errors, slowest {slowest:.0f} ms")
        )
    return lines


def _told(event: dict[str, Any]) -> str:
    known = ("version", "replaces", "warm_ms", "error")
    return f"{event['event']}: " + ", ".join(f"{name} {event[name]}" for name in known if name in event)


def _seconds(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    head = "| callers | requests/s | of the bare call | p50 ms | p95 ms | p99 ms | errors |\n" + "|---" * 7 + "|\n"
    rows = [(str(row["callers"]), row) for row in result["steady"]]
    rows.append((f"{SWAP_CALLERS}, three swaps and a rollback", result["swaps"]))
    body = "".join(
        f"| {name} | {row['per_second']:.2f} | {row['of_bare']:.0%} | {row['p50_ms']:.0f} | {row['p95_ms']:.0f} | "
        f"{row['p99_ms']:.0f} | {row['errors']} of {row['requests']} |\n"
        for name, row in rows
    )
    bare = "; ".join(
        f"{threads} at a time {rates['bare']:.2f}/s, with decoding {rates['with_decoding']:.2f}/s"
        for threads, rates in result["bare"].items()
    )
    return f"Bare onnxruntime call in the same process: {bare}.\n\n{head}{body}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    arguments = parser.parse_args()
    images = sorted(arguments.images.rglob("*.png"))[:40]
    if not images:
        raise SystemExit(f"{arguments.images}: no PNG images")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stlm-load-") as folder:
        registry = ScratchRegistry(Path(folder), arguments.model.resolve(), VERSIONS)
        server = Server(registry, arguments.model.resolve(), [path.resolve() for path in images], arguments.seconds / 2)
        try:
            rows = steady(server, registry.line, images, arguments.seconds)
            swapped, log = swaps(server, registry, images)
            bare = server.bare()
        finally:
            code = server.stop()
    limits = Limits()
    result = {
        "machine": {
            "cores": limits.workers,
            "system": platform.platform(),
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "load_before": os.getloadavg()[2],
        },
        "model": {"line": registry.line, "bytes": arguments.model.stat().st_size, "images": len(images)},
        "server": {"workers": limits.workers, "threads": limits.threads, "exit_code": code},
        "bare": bare,
        "steady": rows,
        "swaps": swapped,
    }
    (arguments.out / "load.json").write_text(json.dumps(result, indent=2) + "\n")
    (arguments.out / "rollback.log").write_text("\n".join(log) + "\n")
    print(table(result))
    errors = sum(row["errors"] for row in [*rows, swapped])
    complete = swapped["swaps"] == VERSIONS and swapped["order"] == ["1", "2", "3", "4", "3"]
    if errors or not complete or code != 0:
        raise SystemExit(f"{errors} errors, {swapped['swaps']} swaps in the order {swapped['order']}, exit code {code}")


if __name__ == "__main__":
    main()
