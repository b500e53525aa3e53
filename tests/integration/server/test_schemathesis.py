"""schemathesis against a server: what its OpenAPI description promises holds, and nothing breaks it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import KEY, detector, environment, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
OPTIONS = ("--checks", "all", "--max-examples", "40", "--generation-deterministic", "--no-color", "--warnings", "off")


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "with a key"])
def test_schemathesis_finds_nothing(tmp_path: Path, repository: Path, key: str | None) -> None:
    pytest.importorskip("schemathesis", reason="pip install schemathesis")
    (tmp_path / "model.onnx").write_bytes(detector("r1"))
    variables = {"STLM_API_KEY": key} if key else {}
    with serving(tmp_path, "--model", "model.onnx", "--max-upload-mib", "1", **variables) as server:
        done = subprocess.run(
            [*COMMAND, f"{server.url}/openapi.json", *OPTIONS, *(("-H", f"X-API-Key: {key}") if key else ())],
            cwd=tmp_path,
            env={
                **environment(),
                "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
                "PYTHONPATH": os.pathsep.join([str(repository / "tests"), os.environ.get("PYTHONPATH", "")]),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "No issues found" in done.stdout, done.stdout
        assert server.metric("stlm_requests_total", status="200") > 100
        assert server.metric("stlm_images_total", line="tiny", verdict="normal") > 10
        assert not server.events("request failed")
        assert server.metric("stlm_requests_in_flight") == 1
        assert server.metric("stlm_buffered_bytes") == 0
