"""The quantize step and its command on a tiny line: an accepted file, and what a refusal leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_onnx import METADATA
from typer.testing import CliRunner

from stlm_core.cli.main import app
from stlm_core.config import LineConfig, load_line
from stlm_core.data.manifest import Manifest, build_manifest
from stlm_core.errors import StlmError, UserError
from stlm_core.export.onnx_graph import export_onnx
from stlm_core.files import sha256_file
from stlm_core.models.detector import Detector, DetectorFacts, ShippedDetector
from stlm_core.runtime.model import DetectorSession
from stlm_core.runtime.predict import predict_images
from stlm_core.steps import quantize as step
from stlm_core.steps.pipeline import run_one
from stlm_core.steps.quantize import quantize
from stlm_core.steps.synthesize import synthesize
from stlm_core.steps.workspace import Workspace
from stlm_core.synthesis.bank import Bank
from stlm_core.training.remember import complete_memory, fit_memory

pytestmark = [pytest.mark.slow, pytest.mark.integration]

PARAMS = """
defaults:
  image: {size: 64}
  synthesize: {variants: 1}
  export: {latency_runs: 3}
profiles: {fast: {}}
lines:
  part:
    data: {path: data/part, license: CC0-1.0}
"""


def _photograph(path: Path, rng: np.random.Generator, defect: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((60, 72, 3), 120, np.uint8) + rng.integers(0, 8, (60, 72, 3), dtype=np.uint8)
    if defect:
        pixels[20:40, 20:44] = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        mask = np.zeros((60, 72), np.uint8)
        mask[20:40, 20:44] = 255
        target = path.parents[2] / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)
    Image.fromarray(pixels).save(path)


def _shipped(manifest: Manifest, bank: Bank) -> tuple[ShippedDetector, ShippedDetector]:
    """A random decoder with a memory of the line's good parts: the threshold between good and defective, and at 0."""
    torch.manual_seed(0)
    detector = Detector(
        DetectorFacts(64, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=False, memory=50),
        top_pixels=30,
    ).eval()
    fit_memory(detector, bank, 0, torch.device("cpu"))
    detector.memory.vectors.copy_(complete_memory(detector, bank, 0, torch.device("cpu")))
    pixels = {}
    for row in manifest.rows:
        with Image.open(manifest.image_path(row)) as image:
            pixels[row] = torch.from_numpy(np.array(image))[None]
    with torch.no_grad():
        raw = {row: float(detector(one)[0]) for row, one in pixels.items()}
    worst = max(score for row, score in raw.items() if row.label == 0)
    best = min(score for row, score in raw.items() if row.label == 1)
    assert worst < best
    return ShippedDetector(detector, (worst + best) / 2, 1.0).eval(), ShippedDetector(detector, 0.001, 1.0).eval()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[LineConfig, Workspace, bytes]:
    """The line with an export that separates it, and another export that rejects everything."""
    root = tmp_path_factory.mktemp("line")
    rng = np.random.default_rng(5)
    for folder, count in {"train/good": 12, "test/good": 4, "test/crack": 4}.items():
        for index in range(count):
            _photograph(root / "data" / "part" / folder / f"{index:03d}.png", rng, "crack" in folder)
    (root / "params.yaml").write_text(PARAMS)
    config, workspace = load_line(root / "params.yaml", "part"), Workspace(root / "outputs", "part")
    for name in ("validate", "export"):
        workspace.folder(name).mkdir(parents=True)
    manifest = build_manifest(config)
    manifest.write(workspace.folder("validate") / "manifest.parquet")
    synthesize(config, workspace)
    shipped, rejecting = _shipped(manifest, Bank.open(workspace.folder("synthesize")))
    metadata = {**METADATA, "line": "part"}
    (workspace.folder("export") / "model.onnx").write_bytes(export_onnx(shipped, metadata, opset=20))
    return config, workspace, export_onnx(rejecting, metadata, opset=20)


def _end(config: LineConfig, *arguments: str) -> tuple[int, str]:
    params, outputs = config.root / "params.yaml", config.root / "outputs"
    result = CliRunner().invoke(
        app, ["quantize", "--line", "part", "--params", str(params), "--outputs", str(outputs), *arguments]
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_refused_file_is_not_written(
    line: tuple[LineConfig, Workspace, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace, rejecting = line
    monkeypatch.setattr(step, "quantised", lambda content, images: rejecting if list(images) else content)
    with pytest.raises(StlmError, match=r"int8 refused: \d of \d+ decisions differ \(.*\.png.*\), 0 may; the model"):
        quantize(config, workspace)
    assert not workspace.folder("quantize").exists()
    assert [path.parent.name for path in (config.root / "outputs").rglob("*.onnx")] == ["export"]


def test_the_command_writes_a_file_that_is_proven_and_can_be_used(
    line: tuple[LineConfig, Workspace, bytes], tmp_path: Path
) -> None:
    config, workspace, _ = line
    code, output = _end(config)
    assert code == 0
    assert output.startswith("quantize part: model.onnx in int8, ")
    assert "decisions differ, image AUROC 1.0000 (1.0000), pixel AUROC" in output
    folder = workspace.folder("quantize")
    proof = json.loads((folder / "proof.json").read_text())
    assert proof["passed"] is True
    assert proof["flipped"] == []
    assert proof["float32"]["onnx_sha256"] == sha256_file(workspace.folder("export") / "model.onnx")
    assert proof["int8"]["onnx_sha256"] == sha256_file(folder / "model.onnx")
    manifest = Manifest.read(workspace.folder("validate") / "manifest.parquet", config.resolve("data/part"))
    assert proof["held_back"] == len(manifest.calibration())
    assert proof["images"] == proof["held_back"] + 8
    assert proof["masks"] == 4
    assert proof["calibration_images"] > len(manifest.train())
    session, exported = (DetectorSession(workspace.folder(step) / "model.onnx") for step in ("quantize", "export"))
    assert session.metadata == {**exported.metadata, "precision": "int8"}
    summary = predict_images(folder / "model.onnx", [str(config.resolve("data/part/test"))], tmp_path)
    assert [row.is_anomalous for row in summary.rows] == ["crack" in row.path for row in summary.rows]
    assert _end(config)[1].rstrip().endswith("(up to date)")
    before = sha256_file(folder / "model.onnx")
    assert not run_one("quantize", config, workspace, force=True).reused
    assert sha256_file(folder / "model.onnx") == before


def test_what_is_missing_or_has_changed_is_named(line: tuple[LineConfig, Workspace, bytes]) -> None:
    config, workspace, _ = line
    with pytest.raises(UserError, match="run `stlm export --line part` first"):
        quantize(config, Workspace(workspace.root, "part", {"export": config.root / "nowhere"}))
    path = config.resolve("data/part/test/good/000.png")
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    try:
        with pytest.raises(UserError, match=f"{path}: has changed since the manifest was made"):
            quantize(config, workspace, force=True)
    finally:
        path.write_bytes(content)
