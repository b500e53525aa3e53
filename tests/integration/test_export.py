"""The export step on a whole detector: the file, its proof, its card, and what happens when the proof fails."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from stlm_core.config import (
    DETECTOR_SECTIONS,
    STREAM_SECTIONS,
    TRAINED_SECTIONS,
    LineConfig,
    as_parameter,
    load_line,
)
from stlm_core.data.images import read_image
from stlm_core.data.manifest import Manifest, build_manifest
from stlm_core.errors import StlmError, UserError
from stlm_core.evaluation.evidence_collector import EvidenceCollector
from stlm_core.evaluation.example_files import write_examples
from stlm_core.evaluation.examples import Example
from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.files import sha256_file
from stlm_core.models.detector import (
    Detector,
    DetectorFacts,
    MapSource,
    ShippedDetector,
    count_parameters,
    load_detector,
    save_detector,
)
from stlm_core.models.remembered import add_remembered, save_remembered
from stlm_core.runtime.model import DetectorSession
from stlm_core.runtime.predict import predict_images
from stlm_core.steps.container import ARTIFACTS, run_in_container
from stlm_core.steps.evaluate import _facts, evaluate
from stlm_core.steps.export import _making, _start, export
from stlm_core.steps.packed_images import pack_images
from stlm_core.steps.workspace import Workspace
from stlm_core.training.remember_held_back import HeldBackMemory
from stlm_core.weights.catalog import lookup

pytestmark = [pytest.mark.slow, pytest.mark.integration]

PARAMS = """
defaults:
  image: {{size: 64}}
  export: {{parity_images: 4, latency_runs: 3{export}}}
profiles: {{fast: {{}}}}
lines:
  part:
    data: {{path: data/part, license: CC BY-NC-SA 4.0}}
"""
REMEMBERED = "data/part/train/good/000.png"
POINT = OperatingPoint(
    raw_threshold=0.45,
    budget=0.05,
    calibration_images=20,
    guaranteed_false_reject=1 / 21,
    confidence=0.64,
    scale=2.0,
    calibration_parts=20,
    parts_above=0,
)
METRICS = {
    "image_auroc": 0.97,
    "aupro_30": 0.88,
    "test_good": 3,
    "test_anomalous": 3,
    "test_regions": 3,
    "false_reject_rate": 0.1,
    "false_reject_rate_low": 0.05,
    "false_reject_rate_high": 0.2,
}
IMAGES = """path,label,defect_type,raw_score,score,is_anomalous,outcome,has_mask
test/good/000.png,0,good,0.2,0.2,False,passed,False
test/good/001.png,0,good,0.3,0.3,False,passed,False
test/good/002.png,0,good,0.5,0.6,True,false_reject,False
test/crack/000.png,1,crack,0.4,0.4,False,missed,True
test/crack/001.png,1,crack,0.6,0.7,True,found,True
test/crack/002.png,1,crack,0.7,0.8,True,found,True
"""
DEFECTS = """defect_type,images,found,recall,recall_low,recall_high,image_auroc,aupro_30
crack,3,2,0.6667,0.2,0.94,0.97,
"""


def _make_line(root: Path, export_settings: str = "", test_images: bool = True) -> tuple[LineConfig, Workspace]:
    rng = np.random.default_rng(5)
    folders = {"train/good": 8} | ({"test/good": 3, "test/crack": 3} if test_images else {})
    for folder, count in folders.items():
        for index in range(count):
            path = root / "data" / "part" / folder / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (52, 70 + index, 3), dtype=np.uint8)).save(path)
            if "crack" in folder:
                mask = root / "data" / "part" / "ground_truth" / "crack" / f"{index:03d}_mask.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (70 + index, 52), 255).save(mask)
    (root / "params.yaml").write_text(PARAMS.format(export=export_settings))
    config = load_line(root / "params.yaml", "part")
    workspace = Workspace(root / "outputs", "part")
    for step in ("validate", "train-fa", "evaluate"):
        workspace.folder(step).mkdir(parents=True)
    build_manifest(config).write(workspace.folder("validate") / "manifest.parquet")
    torch.manual_seed(0)
    teacher = lookup("lite_medsam")
    # The smallest detector there is; test_pipeline and test_teacher_as_plain_stream export the others.
    facts = DetectorFacts(
        64,
        "conv3x3",
        "unit",
        teacher.name,
        teacher.sha256,
        plain_stream="teacher",
        aggregation="decoder",
        denoising=False,
        memory=20,
    )
    detector = Detector(facts).eval()
    assert detector.memory is not None
    detector.memory.deviation.fill_(0.01)  # random weights see distances of a thousandth
    save_detector(workspace.folder("train-fa") / "detector.safetensors", detector)
    evaluated = workspace.folder("evaluate")
    (evaluated / "operating_point.json").write_text(json.dumps(POINT.to_dict()))
    held_back = [("part", np.array(Image.open(root / REMEMBERED)))]
    added = HeldBackMemory(detector, held_back, 6, torch.device("cpu")).added()
    save_remembered(evaluated / "remembered.safetensors", added)
    (evaluated / "metrics.json").write_text(json.dumps(METRICS if test_images else {}))
    (evaluated / "images.csv").write_text(IMAGES if test_images else IMAGES.splitlines(keepends=True)[0])
    (evaluated / "defects.csv").write_text(DEFECTS if test_images else DEFECTS.splitlines(keepends=True)[0])
    seen = np.zeros((8, 8, 3), dtype=np.uint8)
    missed = Example("test/crack/000.png", "crack", 0.4, 0.4, "missed", seen, np.zeros((8, 8), np.float32), None)
    EvidenceCollector().build().save(evaluated / "evidence.npz")
    write_examples(evaluated / "examples", [missed] if test_images else [], POINT.raw_threshold)
    return config, workspace


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[LineConfig, Workspace]:
    line = _make_line(tmp_path_factory.mktemp("line"))
    result = export(*line)
    assert not result.reused
    assert "scores equal to torch's within" in result.summary
    return line


def test_the_folder_holds_the_model_and_its_records(exported: tuple[LineConfig, Workspace]) -> None:
    folder = exported[1].folder("export")
    assert sorted(path.name for path in folder.iterdir()) == [
        "latency.json",
        "manifest.json",
        "model.onnx",
        "model_card.html",
        "model_card.md",
        "parity.json",
    ]
    assert export(*exported).reused


def test_the_proof_is_on_real_test_images_of_both_kinds(exported: tuple[LineConfig, Workspace]) -> None:
    config, workspace = exported
    parity = json.loads((workspace.folder("export") / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["max_abs_score"] <= config.export.score_tolerance
    assert parity["max_abs_map"] <= config.export.tolerance
    assert parity["onnx_sha256"] == sha256_file(workspace.folder("export") / "model.onnx")
    assert {case["batch"] for case in parity["cases"]} == {1, 2, 5}
    assert len({(case["height"], case["width"]) for case in parity["cases"]}) == 2
    assert [image["split"] for image in parity["images"]] == ["test"] * 4
    assert {Path(image["path"]).parent.name for image in parity["images"]} == {"good", "crack"}
    for image in parity["images"]:
        assert sha256_file(config.resolve("data/part") / image["path"]) == image["sha256"]


def test_the_metadata_tells_where_the_file_comes_from(exported: tuple[LineConfig, Workspace]) -> None:
    config, workspace = exported
    model = onnx.load(workspace.folder("export") / "model.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["line"] == "part"
    assert facts["threshold"] == "0.5"
    assert float(facts["raw_threshold"]) == 0.45
    assert json.loads(facts["operating_point"]) == POINT.to_dict()
    assert json.loads(facts["metrics"]) == METRICS
    assert facts["teacher"] == "lite_medsam"
    assert facts["teacher_sha256"] == lookup("lite_medsam").sha256
    assert facts["non_commercial"] == "the line's images are under CC BY-NC-SA 4.0"
    assert facts["detector_sha256"] == sha256_file(workspace.folder("train-fa") / "detector.safetensors")
    assert facts["remembered_sha256"] == sha256_file(workspace.folder("evaluate") / "remembered.safetensors")
    assert len(facts["dataset_sha256"]) == len(facts["test_sha256"]) == 64
    assert str(config.root) not in str(facts)


def test_the_lines_good_pictures_are_ordinary_and_dark_ones_are_not(exported: tuple[LineConfig, Workspace]) -> None:
    config, workspace = exported
    session = DetectorSession(workspace.folder("export") / "model.onnx")
    manifest = Manifest.read(workspace.folder("validate") / "manifest.parquet", config.resolve("data/part"))
    good = [*manifest.train(), *manifest.validation(), *manifest.calibration()]
    assert len({row.split for row in good}) > 1
    for row in good:
        pixels = read_image(manifest.image_path(row))
        assert session.complaints(pixels) == ()
        assert "dark" in session.complaints((pixels * 0.3).astype(np.uint8))


def test_predict_says_what_torch_says(exported: tuple[LineConfig, Workspace], tmp_path: Path) -> None:
    config, workspace = exported
    images = sorted(config.resolve("data/part/test").rglob("*.png"))
    summary = predict_images(workspace.folder("export") / "model.onnx", [str(path) for path in images], tmp_path)
    detector = load_detector(workspace.folder("train-fa") / "detector.safetensors")
    add_remembered(detector, workspace.need("evaluate", "remembered.safetensors"))
    shipped = ShippedDetector(detector, POINT.raw_threshold, POINT.scale).eval()
    for row, path in zip(summary.rows, images, strict=True):
        with Image.open(path) as image, torch.no_grad():
            score, anomaly_map, decision = shipped(torch.from_numpy(np.array(image))[None])
        assert row.score == pytest.approx(float(score), abs=1e-5)
        assert row.is_anomalous == bool(decision)
        with Image.open(tmp_path / row.map) as stored:
            difference = np.abs(np.asarray(stored) / 65535 - anomaly_map[0].numpy())
        assert difference.max() < 1e-4


def test_the_card_states_licences_and_figures(exported: tuple[LineConfig, Workspace]) -> None:
    card = (exported[1].folder("export") / "model_card.md").read_text()
    assert "These weights are not for commercial use: the line's images are under CC BY-NC-SA 4.0." in card
    assert "Apache-2.0; trained on medical images" in card
    assert re.search(r"\| Image AUROC \| 97\.0% \| \d+\.\d% to 100\.0% \| bootstrap", card)
    assert "| budget that was asked for | 50 |" in card
    assert "| measured on 3 good test images | 100 (50 to 200) |" in card
    assert "Passed: torch against ONNX Runtime on 4 real images" in card
    assert "dvc repro export@part" in card
    config, workspace = exported
    for stated in (sha256_file(workspace.folder("export") / "model.onnx"), config.model_hash()):
        assert f"`{stated}`" in card
    page = (workspace.folder("export") / "model_card.html").read_text()
    assert "test/crack/000.png" in page
    assert page.count("data:image/jpeg;base64,") == 3  # there is no mask, so no ground truth
    assert str(config.root) not in card + page


@pytest.mark.parametrize(
    ("init", "denoising", "start"),
    [
        ("mobile_sam", True, "mobile_sam"),
        ("mobile_sam", False, ""),
        ("random", True, ""),
        ("teacher", True, ""),
        ("lite_medsam", True, ""),  # that is the teacher
    ],
)
def test_what_a_trained_stream_starts_from(
    exported: tuple[LineConfig, Workspace], init: str, denoising: bool, start: str
) -> None:
    config = exported[0]
    settings = config.model_copy(update={"model": config.model.model_copy(update={"init": init})})
    structure = DetectorFacts(64, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=denoising)
    assert config.teacher.name == "lite_medsam"
    assert _start(settings, Detector(structure)) == start


def test_what_the_evaluation_remembered_is_in_the_file(exported: tuple[LineConfig, Workspace]) -> None:
    config, workspace = exported
    session = DetectorSession(workspace.need("export", "model.onnx"))
    image = np.array(Image.open(config.root / REMEMBERED))[None]
    settings = (config.evaluate.top_pixels, config.evaluate.map_source)
    maps = []
    for remembers in (False, True):
        detector = load_detector(workspace.need("train-fa", "detector.safetensors"), *settings)
        if remembers:
            add_remembered(detector, workspace.need("evaluate", "remembered.safetensors"))
        with torch.inference_mode():
            maps.append(detector(torch.from_numpy(image))[1].numpy())
    found = session.predict(image).anomaly_maps
    np.testing.assert_allclose(found, maps[1], atol=1e-4)
    assert np.abs(found - maps[0]).max() > 1e-3


def test_the_parameters_are_those_of_the_networks_that_run(exported: tuple[LineConfig, Workspace]) -> None:
    config, workspace = exported
    manifest = Manifest.read(workspace.need("validate", "manifest.parquet"), config.resolve(config.data.path))
    file = workspace.need("train-fa", "detector.safetensors")
    counted = {
        source: _making(config, manifest, load_detector(file, map_source=source), "").parameters
        for source in get_args(MapSource)
    }
    page = {source: _facts(config, manifest, load_detector(file, map_source=source)) for source in get_args(MapSource)}
    detector = load_detector(file)
    everything, streams = count_parameters(detector), count_parameters(detector.streams)
    assert streams < everything
    assert counted == {"fa": everything, "fa-alone": everything, "tlm": streams}
    told = {source: facts["Parameters"] for source, facts in page.items()}
    assert told == {source: f"{count / 1e6:.2f} million" for source, count in counted.items()}
    assert told["tlm"] != told["fa"]


def test_in_a_container_kubeflow_gets_the_page(exported: tuple[LineConfig, Workspace], tmp_path: Path) -> None:
    config, workspace = exported
    names = [path.relative_to(config.root).as_posix() for path in (config.root / "data").rglob("*.png")]
    pack_images("part", "r7", config.root, names, tmp_path / "images.tar")
    sections = config.model_dump(mode="json", by_alias=True)
    inputs = {name: workspace.folder(step) for name, step in ARTIFACTS.items() if name != "onnx"}
    outputs = {"onnx": workspace.folder("export"), "card": tmp_path / "card"}

    def listed(paths: dict[str, Path]) -> dict[str, object]:
        return {name: {"artifacts": [{"name": name, "uri": str(path)}]} for name, path in paths.items()}

    executor_input = {
        "inputs": {
            "parameterValues": {
                "profile": "fast",
                "data_revision": "r7",
                **{section: as_parameter(sections[section]) for section in TRAINED_SECTIONS},
            },
            "artifacts": listed(inputs | {"images": tmp_path / "images.tar"}),
        },
        "outputs": {"artifacts": listed(outputs), "outputFile": str(tmp_path / "output.json")},
    }
    # The settings arrive as they are on a workstation, so nothing has to be exported again.
    assert "up to date" in run_in_container("export", "part", json.dumps(executor_input))
    assert (tmp_path / "card").read_bytes() == (workspace.folder("export") / "model_card.html").read_bytes()


def test_equal_inputs_give_the_same_file(exported: tuple[LineConfig, Workspace]) -> None:
    model = exported[1].folder("export") / "model.onnx"
    before = sha256_file(model)
    assert not export(*exported, force=True).reused
    assert sha256_file(model) == before


def test_a_failed_proof_leaves_no_model(tmp_path: Path) -> None:
    config, workspace = _make_line(tmp_path, ", tolerance: 1.0e-12", test_images=False)
    with pytest.raises(StlmError, match=r"parity proof failed: .* differ by .*, more than export\.tolerance 1e-12"):
        export(config, workspace)
    assert not workspace.folder("export").exists()
    assert not list(tmp_path.rglob("*.onnx"))


def test_without_test_images_the_held_back_ones_prove_it_and_a_changed_one_is_named(tmp_path: Path) -> None:
    config, workspace = _make_line(tmp_path, test_images=False)
    export(config, workspace)
    parity = json.loads((workspace.folder("export") / "parity.json").read_text())
    assert {image["split"] for image in parity["images"]} == {"calibration"}
    assert DetectorSession(workspace.folder("export") / "model.onnx").metadata["test_sha256"] == ""
    assert "nothing could be measured" in (workspace.folder("export") / "model_card.md").read_text()
    path = config.resolve("data/part") / parity["images"][0]["path"]
    Image.new("RGB", (70, 52)).save(path)
    with pytest.raises(UserError, match=f"{path}: has changed since the manifest was made"):
        export(config, workspace, force=True)


def test_an_evaluation_of_another_detector_or_with_other_settings_is_not_exported(tmp_path: Path) -> None:
    config, workspace = _make_line(tmp_path)
    evaluate(config, workspace)
    other = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"top_pixels": 7})})
    with pytest.raises(UserError, match=r"made with other settings .*; run `stlm evaluate --line part` again"):
        export(other, workspace)
    trained = workspace.folder("train-fa") / "detector.safetensors"
    detector = load_detector(trained)
    with torch.no_grad():
        next(iter(detector.aggregation.parameters())).mul_(1.01)
    save_detector(trained, detector)
    with pytest.raises(UserError, match=r"made from another detector\.safetensors .*; run `stlm evaluate --line part`"):
        export(config, workspace)
    assert not workspace.folder("export").exists()


@pytest.mark.parametrize(("step", "file"), [("distill", "streams.safetensors"), ("train-fa", "detector.safetensors")])
def test_what_was_trained_with_other_settings_is_not_exported_as_of_these(tmp_path: Path, step: str, file: str) -> None:
    config, workspace = _make_line(tmp_path)
    folder = workspace.folder(step)
    folder.mkdir(exist_ok=True)
    if step == "distill":
        (folder / file).write_bytes(b"streams")
    section = step if step == "distill" else "fa"
    before = config.model_copy(update={section: getattr(config, section).model_copy(update={"seed": 99})})
    described = {
        "config": before.section_hash(*(STREAM_SECTIONS if step == "distill" else DETECTOR_SECTIONS)),
        "inputs": {},
        "outputs": {file: {"sha256": sha256_file(folder / file)}},
    }
    (folder / "manifest.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=rf"made with other settings .*; run `stlm {step} --line part` again"):
        export(config, workspace)
    assert not workspace.folder("export").exists()


def test_missing_and_damaged_inputs_are_named(tmp_path: Path) -> None:
    config, workspace = _make_line(tmp_path)
    (workspace.folder("evaluate") / "images.csv").write_text("path,label\na.png,good\n")
    with pytest.raises(UserError, match=r"images\.csv: cannot be read as a table of the evaluation"):
        export(config, workspace)
    (workspace.folder("evaluate") / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json: not valid JSON"):
        export(config, workspace)
    (workspace.folder("evaluate") / "operating_point.json").unlink()
    with pytest.raises(UserError, match="run `stlm evaluate --line part` first"):
        export(config, workspace)
