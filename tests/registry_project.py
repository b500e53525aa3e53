"""A project folder whose line has finished every step before ``register``, with a detector small enough to read."""

from __future__ import annotations

import json
from pathlib import Path

from evidence_data import evidence
from PIL import Image
from tiny_onnx import tiny_onnx

from stlm_core.config import LineConfig, load_line
from stlm_core.evaluation.evidence import Evidence
from stlm_core.files import sha256_bytes
from stlm_core.steps.workspace import Workspace

PARAMS = """
defaults: {}
profiles: {fast: {}}
lines:
  tiny:
    data: {path: data/tiny, license: CC0-1.0}
    teacher: {weights: "https://user:secret@example.com/weights.pth?token=secret"}
    promote: {max_size_mb: 1.0}
"""
TEST_SHA256 = "7" * 64
CURVE_STEPS = 1100  # more points than one request takes


def make_project(root: Path) -> tuple[LineConfig, Workspace]:
    """Write ``params.yaml``; the outputs come from :func:`write_export`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(PARAMS)
    return load_line(root / "params.yaml", "tiny"), Workspace(root / "outputs", "tiny")


def verdicts(recall: float) -> Evidence:
    """Verdicts on 20 good and 20 defective images, of which that share is found; in all else every version is alike."""
    found = round(20 * recall)
    return evidence([0.1] * 20 + [0.9] * found + [0.45] * (20 - found), ["good"] * 20 + ["dent"] * 20)


def write_export(workspace: Workspace, *, revision: str, parity: bool = True, **metrics: float) -> str:
    """Outputs of all earlier steps; returns the sha256 of ``model.onnx``, which differs by ``revision``."""
    measured = {"image_auroc": 0.95, "aupro_30": 0.85, "recall_at_budget": 0.7, "pixel_auroc": 0.96, **metrics}
    content = tiny_onnx(
        code_version=revision, test_sha256=TEST_SHA256, detector_sha256="d" * 64, data_license="CC0-1.0"
    )
    digest = sha256_bytes(content)
    proof = {"passed": parity, "onnx_sha256": digest, "max_abs_score": 1e-7, "max_abs_map": 2e-7}
    files: dict[tuple[str, str], str] = {
        ("export", "parity.json"): json.dumps(proof),
        ("export", "latency.json"): json.dumps({"p50_ms": 11.5, "p95_ms": 13.25, "size_mb": 0.001}),
        ("export", "model_card.md"): f"# Card of {revision}\n",
        ("export", "model_card.html"): f"<title>Card of {revision}</title>",
        ("evaluate", "metrics.json"): json.dumps(measured),
        ("evaluate", "report.html"): "<html></html>",
        ("validate", "validation.json"): json.dumps({"success": True}),
        ("validate", "statistics.json"): json.dumps({"of": revision}),
        ("distill", "curve.csv"): "step,loss,validation loss\n"
        + "".join(f"{n},{1 / n},\n" for n in range(1, CURVE_STEPS)),
        ("train-fa", "curve.csv"): "step,loss\n10,0.5\n20,nan\n30,0.25\n",
    }
    for (step, name), text in files.items():
        path = workspace.folder(step) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("images.csv", "defects.csv"):
        (workspace.folder("evaluate") / name).write_text("path\n")
    verdicts(measured["recall_at_budget"]).save(workspace.folder("evaluate") / "evidence.npz")
    figures = workspace.folder("evaluate") / "figures"
    figures.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save(figures / "roc.png")
    (workspace.folder("export") / "model.onnx").write_bytes(content)
    return digest
