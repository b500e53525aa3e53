"""Real MLflow servers: with SQLite or with PostgreSQL, and the one that answers for a model."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 180  # seconds; a loaded machine takes more than one minute
HAS_POSTGRES = all(importlib.util.find_spec(name) for name in ("pgserver", "psycopg"))


@contextlib.contextmanager
def mlflow_server(root: Path, database: str | None = None, workers: int = 1) -> Iterator[str]:
    """Its address. ``database``: SQLAlchemy address; None for SQLite in ``root``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root.mkdir(parents=True)
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | own
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers), "--backend-store-uri", database or f"sqlite:///{root}/server.db"]
    command += ["--artifacts-destination", str(root / "artifacts")]
    with _running(command, root, environment, f"http://127.0.0.1:{port}") as address:
        yield address


@contextlib.contextmanager
def scoring_server(root: Path, model: str, tracking: str) -> Iterator[str]:
    """Address of ``mlflow models serve`` for ``model`` out of the registry at ``tracking``; ``root`` is new."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STLM_")}
    # The server starts another program of this environment by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment |= {"MLFLOW_TRACKING_URI": tracking, "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    command += ["-h", "127.0.0.1", "-p", str(port)]
    with _running(command, root, environment, f"http://127.0.0.1:{port}") as address:
        yield address


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """SQLAlchemy address of a PostgreSQL server of its own."""
    import pgserver

    # Not under pytest's folder: the server refuses to run as root, and no other user may enter there.
    folder = Path(tempfile.mkdtemp(prefix="stlm-postgres-"))
    folder.chmod(0o755)
    server = pgserver.get_server(folder / "data")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(command: list[str], root: Path, environment: dict[str, str], address: str) -> Iterator[str]:
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(address, process, root / "log")
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself, and the log says why
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"no MLflow server after {PATIENCE} s: {log.read_text()}")
