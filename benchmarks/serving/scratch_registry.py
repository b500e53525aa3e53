"""A project folder with a registry of its own, and versions of one model that differ in their metadata only."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from stlm_core.config import LineConfig, load_line
from stlm_core.files import sha256_bytes
from stlm_core.integrations.mlflow_client import URI_VARIABLE, open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, Registry
from stlm_core.integrations.mlflow_run import RunContent, finish_run

PARAMS = """
defaults: {{}}
profiles: {{fast: {{}}}}
lines:
  {line}:
    data: {{path: data}}
"""


class ScratchRegistry:
    """Versions 1..N of a line in an SQLite registry in ``root``; version 1 is champion."""

    def __init__(self, root: Path, model: Path, versions: int) -> None:
        os.environ.pop(URI_VARIABLE, None)
        original = onnx.load(str(model))
        facts = {entry.key: entry for entry in original.metadata_props}
        self.root, self.line = root, facts["line"].value
        (root / "params.yaml").write_text(PARAMS.format(line=self.line))
        self.config: LineConfig = load_line(root / "params.yaml", self.line)
        with open_tracking(root) as tracking:
            registry = Registry(tracking, self.line)
            registry.create()
            for number in range(1, versions + 1):
                facts["code_version"].value = f"load-{number}"
                content = original.SerializeToString()
                run = finish_run(tracking, self._run_content(content, number))
                registry.add(run, {"onnx_sha256": sha256_bytes(content)}, "for the load test")
            registry.point(CHAMPION, 1)

    def challenge(self, number: int) -> None:
        """Let a version ask for promotion."""
        with open_tracking(self.root) as tracking:
            Registry(tracking, self.line).point(CHALLENGER, number)

    def _run_content(self, content: bytes, number: int) -> RunContent:
        return RunContent(
            experiment=f"stlm-{self.line}",
            run_name=f"load {number}",
            params={},
            metrics={},
            curves={},
            artifacts=(),
            dataset_name=self.line,
            dataset_sha256="0" * 64,
            dataset_source="data",
            tags={},
            model=content,
        )
