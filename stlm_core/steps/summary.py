"""What a line's last run came to, read from its output folders."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stlm_core.addresses import without_credentials
from stlm_core.config import LineConfig
from stlm_core.errors import UserError
from stlm_core.files import read_json_object
from stlm_core.integrations.mlflow_client import tracking_uri
from stlm_core.steps.contract import read_manifest
from stlm_core.steps.workspace import STEPS, Workspace


@dataclass(frozen=True)
class StepCost:
    """Wall time and memory of one finished step."""

    step: str
    seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class LineSummary:
    """``rows``: name and value of every figure, ready to print; ``costs``: of the finished steps, in order."""

    rows: list[tuple[str, str]]
    costs: list[StepCost]
    report: Path
    onnx: Path


def summarise(config: LineConfig, workspace: Workspace) -> LineSummary:
    """Gather metrics, latency and costs of a finished line.

    Raises:
        UserError: evaluation or export have not run yet.
    """
    metrics = read_json_object(workspace.need("evaluate", "metrics.json"), "run `stlm evaluate` again")
    latency = read_json_object(workspace.need("export", "latency.json"), "run `stlm export` again")
    onnx = workspace.need("export", "model.onnx")
    budget = float(metrics.get("false_reject_budget", config.evaluate.false_reject_budget))  # the one evaluated with
    rows = [
        ("image AUROC", _share(metrics.get("image_auroc"))),
        ("pixel AUROC", _share(metrics.get("pixel_auroc"))),
        ("AUPRO (FPR <= 0.3)", _share(metrics.get("aupro_30"))),
        ("threshold", _share(metrics.get("threshold"))),
        (f"recall at {budget:.1%} false rejects", _share(metrics.get("recall_at_budget"))),
        ("false rejects on the test images", _share(metrics.get("false_reject_rate"))),
        ("latency, one image", f"{latency['p50_ms']:.1f} ms (p95 {latency['p95_ms']:.1f}, {latency['cores']} cores)"),
        ("ONNX file", f"{onnx.stat().st_size / 1e6:.1f} MB"),
    ]
    costs = []
    for step in STEPS:
        try:
            manifest = read_manifest(workspace.folder(step))
        except UserError:
            continue
        costs.append(StepCost(step, float(manifest["seconds"]), float(manifest["peak_memory_mib"])))
    return LineSummary(rows, costs, workspace.need("evaluate", "report.html"), onnx)


def mlflow_door(config: LineConfig) -> str:
    """How to look at the runs: the command for a local database, else the server's address."""
    uri = without_credentials(tracking_uri(config.root))
    if not uri.startswith("sqlite:"):
        return uri
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}   (then open http://127.0.0.1:5000)"


def _share(value: Any) -> str:
    return "not defined" if value is None else f"{float(value):.4f}"
