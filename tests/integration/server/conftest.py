"""Servers that several tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, detector, serving


@pytest.fixture
def registry_root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with an empty registry."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="module")
def file_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one file, without a registry."""
    root = tmp_path_factory.mktemp("file")
    (root / "model.onnx").write_bytes(detector("r1"))
    with serving(root, "--model", "model.onnx", "--max-megapixels", "20", "--max-upload-mib", "2") as server:
        yield server
