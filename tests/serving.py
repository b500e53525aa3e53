"""Real inspection servers for tests: processes of their own, with tiny detectors from a file or a real registry."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from tiny_onnx import GRAPH, tiny_onnx
from warm_process import STLM

from stlm_core.files import sha256_bytes
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import CHAMPION, Registry
from stlm_core.integrations.mlflow_run import RunContent, finish_run

CAPTURES = '{"brightness": [0.078, 1.0], "sharpness": [0.0, 20.0]}'
KEY = "a-key-that-nobody-guesses"
# Its map is ten times too bright: the self-test finds values above 1.
OVERFLOWING = GRAPH.replace("white = Constant<value = float {255.0}>()", "white = Constant<value = float {25.5}>()")
_START_SECONDS, _STOP_SECONDS = 90, 40


def png(*, brightness: int = 100, width: int = 40, height: int = 30, spot: int | None = None) -> bytes:
    """A grey image; ``spot``: brightness of one pixel at x 7, y 5. With the tiny detector score = brightest / 255."""
    pixels = np.full((height, width, 3), brightness, np.uint8)
    if spot is not None:
        pixels[5, 7] = spot
    return encoded(Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """An image as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, format=file_format, **options)
    return stream.getvalue()


def detector(revision: str, *, line: str = "tiny", graph: str = GRAPH) -> bytes:
    """A tiny detector whose bytes differ by ``revision``; pictures with a mean below 20 of 255 are too dark for it."""
    return tiny_onnx(graph, line=line, code_version=revision, capture=CAPTURES)


def register(root: Path, content: bytes, *, line: str = "tiny", champion: bool = True, **tags: str) -> int:
    """Register a file as the next version of a line, with ``champion`` in service at once; its number."""
    with open_tracking(root) as tracking:
        registry = Registry(tracking, line)
        registry.create()
        run = finish_run(tracking, _run_content(content, line))
        version = registry.add(run, {"onnx_sha256": sha256_bytes(content), **tags}, "for a test")
        if champion:
            registry.point(CHAMPION, version.number)
        return version.number


def point_champion(root: Path, number: int | None, *, line: str = "tiny") -> None:
    """Move the alias."""
    with open_tracking(root) as tracking:
        Registry(tracking, line).point(CHAMPION, number)


def model_files(root: Path) -> list[Path]:
    """All registered model.onnx on disk, the oldest first."""
    return sorted((root / "mlartifacts").rglob("model.onnx"), key=lambda path: path.stat().st_mtime)


def _run_content(content: bytes, line: str) -> RunContent:
    return RunContent(
        experiment=f"stlm-{line}",
        run_name=line,
        params={},
        metrics={"image_auroc": 0.9},
        curves={},
        artifacts=(),
        dataset_name=line,
        dataset_sha256="0" * 64,
        dataset_source="data",
        tags={},
        model=content,
    )


@dataclass
class Server:
    """A server that runs. ``events``: what it has logged so far."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(repr=False)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Its log, as far as it is written; only events of that name."""
        lines = self.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in found if name is None or event["event"] == name]

    def line(self, name: str = "tiny") -> dict[str, Any]:
        """A line's status."""
        answer: dict[str, Any] = self.client.get(f"/v1/lines/{name}").raise_for_status().json()
        return answer

    def inspect(self, content: bytes, line: str = "tiny", **options: Any) -> httpx.Response:
        """Post an image as the body."""
        headers = {"Content-Type": "image/png", **options.pop("headers", {})}
        return self.client.post(f"/v1/lines/{line}/inspect", content=content, headers=headers, **options)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of /metrics with these labels; 0 if there is none."""
        from prometheus_client.parser import text_string_to_metric_families

        return sum(
            sample.value
            for family in text_string_to_metric_families(self.client.get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def stop(self) -> int:
        """SIGTERM, then wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what would lead a server elsewhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "STLM_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


@contextlib.contextmanager
def serving(root: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    """``stlm serve`` in ``root`` on a free port, until the end of the block."""
    log = Path(tempfile.mkdtemp(dir=root, prefix="serve-")) / "log.jsonl"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*STLM, "serve", "--port", "0", "--params", str(root / "params.yaml"), *arguments],
            cwd=root,
            env=environment(**variables),
            stderr=stream,
        )
    try:
        port = _port(process, log)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            yield Server(url, process, log, client)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        for line in log.read_text().splitlines():
            if '"listening"' in line and line.endswith("}"):
                return int(json.loads(line)["port"])
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}:\n{log.read_text()}")
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def refused_start(root: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and standard error of a server that cannot start."""
    command = [*STLM, "serve", "--port", "0", "--params", str(root / "params.yaml"), *arguments]
    done = subprocess.run(
        command, cwd=root, env=environment(**variables), capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr


def until(condition: Any, seconds: float = 30) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
