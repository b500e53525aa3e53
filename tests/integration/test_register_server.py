"""Registration, promotion and rollback through a real MLflow server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import mlflow_server
from registry_project import make_project, write_export

from stlm_core.files import sha256_bytes
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from stlm_core.steps.promote import promote, rollback
from stlm_core.steps.register import register

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with mlflow_server(tmp_path / "server") as address:
        yield address


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
