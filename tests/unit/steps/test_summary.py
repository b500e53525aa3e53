"""`stlm summary`: the figures of the files, not those that the settings of now would give."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from stlm_core.config import load_line
from stlm_core.steps.summary import summarise
from stlm_core.steps.workspace import Workspace


def test_a_recall_is_told_with_the_budget_that_it_was_measured_at(tmp_path: Path) -> None:
    line = {"profile": "fast", "data": {"path": "parts"}, "evaluate": {"false_reject_budget": 0.1}}
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"defaults": {}, "profiles": {"fast": {}}, "lines": {"parts": line}})
    )
    files = {
        "evaluate/metrics.json": json.dumps({"recall_at_budget": 0.75, "false_reject_budget": 0.02}),
        "evaluate/report.html": "",
        "export/latency.json": json.dumps({"p50_ms": 1.0, "p95_ms": 2.0, "cores": 2}),
        "export/model.onnx": "12345",
    }
    for name, content in files.items():
        path = tmp_path / "outputs" / "parts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    summary = summarise(load_line(tmp_path / "params.yaml", "parts"), Workspace(tmp_path / "outputs", "parts"))
    rows = dict(summary.rows)
    assert rows["recall at 2.0% false rejects"] == "0.7500"
    assert rows["image AUROC"] == "not defined"
    assert rows["latency, one image"] == "1.0 ms (p95 2.0, 2 cores)"
    assert summary.costs == []
