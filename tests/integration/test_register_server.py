"""Registration, promotion and rollback through a real MLflow server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_project import make_project, write_export

from stlm_core.files import sha256_bytes
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from stlm_core.steps.promote import promote, rollback
from stlm_core.steps.register import register

pytestmark = [pytest.mark.slow, pytest.mark.integration]
_PATIENCE = 180  # seconds; a loaded machine takes more than one minute


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = tmp_path / "server"
    root.mkdir()
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root}/server.db",
        "--artifacts-destination",
        str(root / "artifacts"),
    ]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, process, root / "log")
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"no MLflow server after {_PATIENCE} s: {log.read_text()}")


def test_the_life_of_two_versions(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    config, workspace = make_project(tmp_path / "project")
    digests = []
    for revision in ("r1", "r2"):
        digests.append(write_export(workspace, revision=revision))
        result = register(config, workspace)
        assert server in result.summary
        assert promote(config).outcome == "promoted"
    assert register(config, workspace).reused
    assert json.loads((workspace.folder("register") / "registration.json").read_text())["store"] == server
    assert not (config.root / "mlflow.db").exists()
    with open_tracking(config.root) as tracking:
        registry = Registry(tracking, "tiny")
        assert registry.aliases() == {CHAMPION: 2, PREVIOUS: 1}
        assert rollback(config).champion == 1
        assert registry.aliases() == {CHAMPION: 1}
        assert CHALLENGER not in registry.aliases()

        import mlflow

        copy = mlflow.artifacts.download_artifacts("models:/stlm-tiny@champion", dst_path=str(tmp_path / "copy"))
        assert sha256_bytes((Path(copy) / "model.onnx").read_bytes()) == digests[0]
        version = registry.at(CHAMPION)
        assert version is not None
        assert len(tracking.client.get_metric_history(version.run_id, "fa/loss")) == 2
