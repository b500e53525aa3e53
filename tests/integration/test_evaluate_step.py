"""Step ``evaluate`` on real files with a real detector (random weights), through the Python call and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stlm_core.config import LineConfig, load_line
from stlm_core.data.manifest import Manifest, ManifestRow, build_manifest
from stlm_core.errors import StlmError, UserError
from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.example_files import WRONG, read_examples
from stlm_core.evaluation.operating_point import OperatingPoint, fit_operating_point
from stlm_core.models.detector import (
    Detector,
    DetectorFacts,
    MapSource,
    ShippedDetector,
    load_detector,
    save_detector,
)
from stlm_core.models.remembered import add_remembered
from stlm_core.steps.evaluate import _calibration_notes, _facts, evaluate
from stlm_core.steps.workspace import Workspace

pytestmark = pytest.mark.integration

PARAMS = """
defaults: {{evaluate: {{top_pixels: 40, report_images: 6, batch_size: 3}}}}
profiles: {{fast: {{image: {{size: 64}}}}}}
lines:
  parts:
    data: {{path: parts, calibration_fraction: {calibration}, license: CC0-1.0}}
    validate: {{require_masks: false}}
"""


def draw_part(number: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(number)
    return np.clip(rng.normal(120, 12, (*shape, 3)), 0, 255).astype(np.uint8)


def make_line(
    root: Path, *, good_tests: int = 5, defects: int = 4, masks: bool = True, calibration: float = 0.4
) -> None:
    """An MVTec folder ``parts`` of small images of two sizes, its params.yaml and its manifest."""
    data = root / "parts"
    for split, count in (("train", 20), ("test", good_tests)):
        (data / split / "good").mkdir(parents=True)
        for number in range(count):
            shape = (48, 80) if number % 4 == 3 else (64, 64)
            Image.fromarray(draw_part(number + 100 * len(split), shape)).save(
                data / split / "good" / f"{number:03}.png"
            )
    if defects:
        (data / "test" / "scratch").mkdir()
        (data / "ground_truth" / "scratch").mkdir(parents=True)
    for number in range(defects):
        image, mask = draw_part(900 + number, (64, 64)), np.zeros((64, 64), np.uint8)
        mask[20:30, 10 + 5 * number : 40] = 255
        image[mask > 0] = 255
        Image.fromarray(image).save(data / "test" / "scratch" / f"{number:03}.png")
        if masks:
            Image.fromarray(mask).save(data / "ground_truth" / "scratch" / f"{number:03}_mask.png")
    (root / "params.yaml").write_text(PARAMS.format(calibration=calibration))


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    facts = DetectorFacts(size=64, stem="conv3x3", normalisation="unit", teacher="lite_medsam", teacher_sha256="ab12")
    save_detector(path, Detector(facts))
    return path


def prepare(root: Path, detector_file: Path, **options: object) -> tuple[LineConfig, Workspace]:
    make_line(root, **options)  # type: ignore[arg-type]
    config = load_line(root / "params.yaml", "parts")
    manifest = root / "outputs" / "parts" / "validate" / "manifest.parquet"
    manifest.parent.mkdir(parents=True)
    build_manifest(config).write(manifest)
    return config, Workspace(root / "outputs", "parts", {"train-fa": detector_file.parent})


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, detector_file: Path) -> tuple[LineConfig, Workspace, Path]:
    config, workspace = prepare(tmp_path_factory.mktemp("line"), detector_file)
    return config, workspace, evaluate(config, workspace).folder


def test_the_threshold_counts_parts_and_names_the_one_that_decides(tmp_path: Path, detector_file: Path) -> None:
    config, workspace = prepare(tmp_path, detector_file)
    path = workspace.need("validate", "manifest.parquet")
    manifest = Manifest.read(path, tmp_path / "parts")

    def told(pairs: list[tuple[str, str]]) -> str:
        part_of = {image: f"part {number}" for number, pair in enumerate(pairs) for image in pair}
        rows = tuple(replace(row, group=part_of.get(row.path, "")) for row in manifest.rows)
        replace(manifest, rows=rows).write(path)
        folder = evaluate(config, workspace).folder
        calibration = pd.read_csv(folder / "calibration.csv")
        assert dict(zip(calibration["path"], calibration["part"], strict=True)) == part_of
        point = OperatingPoint.from_dict(json.loads((folder / "operating_point.json").read_text()))
        assert (point.calibration_images, point.calibration_parts, point.parts_above) == (8, 4, 0)
        assert point.guaranteed_false_reject == pytest.approx(1 / 5)
        return (folder / "report.html").read_text()

    scores = pd.read_csv(evaluate(config, workspace).folder / "calibration.csv").sort_values("raw_score")
    rising = scores["path"].tolist()
    alike = told(list(zip(rising[::2], rising[1::2], strict=True)))
    assert "8 held-back good images of 4 parts" in alike
    assert "are all of one part, part 3, which widens the spread that sets the threshold" in alike
    assert "lies above the highest of the few held-back good images" in alike
    mixed = told(list(zip(rising[:4], rising[4:], strict=True)))
    assert "8 held-back good images of 4 parts" in mixed
    assert "are all of one part" not in mixed


@pytest.mark.parametrize(("highest", "above"), [(0.121, True), (0.9, False)])
def test_an_image_far_above_the_few_others_decides_the_threshold(highest: float, above: bool) -> None:
    scores = np.float32([0.1, 0.11, 0.12] * 4 + [highest - 0.01, highest])
    parts = [str(number) for number in range(12)] + ["odd"] * 2
    point = fit_operating_point(scores, 0.05, parts)
    assert point.extrapolated
    assert (point.raw_threshold > scores.max()) == above
    told = " ".join(_calibration_notes(point, pd.DataFrame({"part": parts, "raw_score": scores})))
    assert ("lies above the highest of the few held-back good images" in told) == above
    assert ("which alone decides the threshold" in told) != above


def test_a_threshold_that_nothing_can_exceed_is_refused_with_the_images_it_comes_from(
    tmp_path: Path, detector_file: Path
) -> None:
    saturated = load_detector(detector_file)
    with torch.no_grad():
        list(saturated.aggregation.parameters())[-1].fill_(1e4)  # the last bias: every map is 1 everywhere
    (tmp_path / "train-fa").mkdir()
    save_detector(tmp_path / "train-fa" / "detector.safetensors", saturated)
    config, workspace = prepare(tmp_path, tmp_path / "train-fa" / "detector.safetensors")
    with pytest.raises(UserError, match=r"nothing would ever be rejected.*train/good/\d+\.png"):
        evaluate(config, workspace)
    assert not workspace.folder("evaluate").exists()


def test_all_outputs_are_there_and_consistent(evaluated: tuple[LineConfig, Workspace, Path]) -> None:
    config, _, folder = evaluated
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pictures = {name for name in made if name.startswith("examples/")}
    assert made - pictures == {
        *("metrics.json", "operating_point.json", "remembered.safetensors", "report.html", "manifest.json"),
        *("images.csv", "defects.csv", "calibration.csv", "evidence.npz"),
        *("curves/roc.csv", "curves/pixel_roc.csv", "curves/pro.csv"),
        *("figures/roc.png", "figures/pro.png", "figures/score_histogram.png", "figures/contact_sheet.png"),
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    point = OperatingPoint.from_dict(json.loads((folder / "operating_point.json").read_text()))
    images, calibration = pd.read_csv(folder / "images.csv"), pd.read_csv(folder / "calibration.csv")
    assert (len(images), len(calibration), metrics["calibration_images"]) == (9, 8, 8)
    assert metrics["calibration_parts"] == point.calibration_parts == 8
    assert not set(images["path"]) & set(calibration["path"])
    assert point.budget == config.evaluate.false_reject_budget
    assert metrics["threshold"] == point.raw_threshold >= calibration["raw_score"].max()  # 8 images are too few
    assert point.extrapolated
    good, defective = images[images["label"] == 0], images[images["label"] == 1]
    assert metrics["false_reject_rate"] == pytest.approx(good["is_anomalous"].mean())
    assert metrics["recall_at_budget"] == pytest.approx(defective["is_anomalous"].mean())
    wrong = images[images["outcome"].isin(WRONG)]
    examples = read_examples(folder / "examples")
    shown = {(example.path, example.outcome) for example in examples}
    assert shown
    assert shown <= set(zip(wrong["path"], wrong["outcome"], strict=True))
    assert len(pictures) == 1 + sum(len(example.pictures) for example in examples)
    found = Evidence.load(folder / "evidence.npz")
    assert found.paths.tolist() == images["path"].tolist()
    assert found.sha256.tolist() == images["sha256"].tolist()
    assert len(found.trained_on) == 20  # every image of the other splits
    assert not found.learned_from(found).any()
    assert found.aupro(np.ones((1, 9)))[0] == pytest.approx(metrics["aupro_30"], abs=1e-3)
    report = (folder / "report.html").read_text()
    assert "too few to certify" in report
    assert "lite_medsam (ab12)" in report


def test_scores_are_those_of_the_shipped_detector(
    evaluated: tuple[LineConfig, Workspace, Path], detector_file: Path
) -> None:
    config, _, folder = evaluated
    point = OperatingPoint.from_dict(json.loads((folder / "operating_point.json").read_text()))
    detector = load_detector(detector_file, config.evaluate.top_pixels, config.evaluate.map_source)
    shipped = ShippedDetector(detector, point.raw_threshold, point.scale).eval()
    for row in pd.read_csv(folder / "images.csv").itertuples():
        image = np.asarray(Image.open(config.resolve(config.data.path) / str(row.path)))
        with torch.inference_mode():
            score, _, anomalous = shipped(torch.from_numpy(image[None].copy()))
        assert float(score[0]) == pytest.approx(row.score, abs=1e-3)
        if abs(float(score[0]) - 0.5) > 1e-3:
            assert bool(anomalous[0]) == row.is_anomalous


def remembering_file(folder: Path) -> Path:
    """A detector with a memory of 100 vectors, random weights."""
    torch.manual_seed(4)
    detector = Detector(DetectorFacts(64, "conv3x3", "unit", **REMEMBERING))  # type: ignore[arg-type]
    memory = detector.memory
    assert memory is not None
    memory.vectors.copy_(torch.rand_like(memory.vectors))
    path = folder / "remembering" / "detector.safetensors"
    path.parent.mkdir()
    save_detector(path, detector)
    return path


def test_images_of_the_threshold_are_remembered_and_scored_as_if_they_were_not(tmp_path: Path) -> None:
    config, workspace = prepare(tmp_path, file := remembering_file(tmp_path))
    folder = evaluate(config, workspace).folder
    added = load_file(folder / "remembered.safetensors")["vectors"]
    assert len(added) == 8 * 3  # of 8 images, 3 each: a quarter of 100 vectors at most
    calibration = pd.read_csv(folder / "calibration.csv")

    def scores(paths: list[str], detector: Detector) -> list[float]:
        images = [np.asarray(Image.open(config.resolve(config.data.path) / path)) for path in paths]
        with torch.inference_mode():
            return [float(detector(torch.from_numpy(image[None].copy()))[0][0]) for image in images]

    whole = load_detector(file, config.evaluate.top_pixels, config.evaluate.map_source)
    add_remembered(whole, folder / "remembered.safetensors")
    assert whole.facts.memory == 124
    images = pd.read_csv(folder / "images.csv")
    assert scores(images["path"].tolist(), whole) == pytest.approx(images["raw_score"].tolist(), abs=1e-5)
    remembered = scores(calibration["path"].tolist(), whole)
    for number, (path, found) in enumerate(zip(calibration["path"], calibration["raw_score"], strict=True)):
        without = load_detector(file, config.evaluate.top_pixels, config.evaluate.map_source)
        assert without.memory is not None
        others = torch.cat([added[: 3 * number], added[3 * number + 3 :]])
        without.memory.vectors = torch.cat([without.memory.vectors, others])
        assert scores([path], without) == pytest.approx([found], abs=1e-5)
        assert remembered[number] <= found
    assert sum(remembered) < calibration["raw_score"].sum()
    assert "124 features, some of them from the 8 images of the threshold" in (folder / "report.html").read_text()


def test_a_part_and_the_copies_of_an_image_are_scored_without_each_other(tmp_path: Path) -> None:
    config, workspace = prepare(tmp_path, remembering_file(tmp_path))
    path = workspace.need("validate", "manifest.parquet")
    manifest = Manifest.read(path, tmp_path / "parts")
    first, second, third, fourth = (row.path for row in manifest.calibration()[:4])
    folder = tmp_path / "parts"
    (folder / second).write_bytes((folder / first).read_bytes())  # a copy, of no named part
    told = {row.path: row for row in build_manifest(config).rows}

    def changed(row: ManifestRow) -> ManifestRow:
        found = replace(row, sha256=told[row.path].sha256, bytes=told[row.path].bytes)
        return replace(found, group="one part" if row.path in (third, fourth) else row.group)

    replace(manifest, rows=tuple(changed(row) for row in manifest.rows)).write(path)
    output = evaluate(config, workspace).folder
    added = load_file(output / "remembered.safetensors")["vectors"].split(3)
    scores = pd.read_csv(output / "calibration.csv").set_index("path")["raw_score"]
    order = list(scores.index)
    assert json.loads((output / "operating_point.json").read_text())["calibration_parts"] == len(order) - 2
    for together in ((first, second), (third, fourth)):
        detector = load_detector(workspace.need("train-fa", "detector.safetensors"), 40, config.evaluate.map_source)
        assert detector.memory is not None
        others = [rows for name, rows in zip(order, added, strict=True) if name not in together]
        detector.memory.vectors = torch.cat([detector.memory.vectors, *others])
        for name in together:
            image = np.asarray(Image.open(folder / name))
            with torch.inference_mode():
                found = detector(torch.from_numpy(image[None].copy()))[0]
            assert float(found[0]) == pytest.approx(scores[name], abs=1e-5)


def test_a_detector_that_does_not_ask_its_memory_remembers_nothing_more(tmp_path: Path) -> None:
    config, workspace = prepare(tmp_path, remembering_file(tmp_path))
    settings = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"map_source": "fa-alone"})})
    folder = evaluate(settings, workspace).folder
    assert load_file(folder / "remembered.safetensors")["vectors"].shape == (0, 152)


TWO_STREAMS: dict[str, object] = {}
REMEMBERING = {"plain_stream": "teacher", "aggregation": "decoder", "denoising": False, "memory": 100}


@pytest.mark.parametrize(
    ("structure", "source", "told"),
    [
        (TWO_STREAMS, "fa", "feature aggregation; image score"),
        (TWO_STREAMS, "fa-alone", "feature aggregation alone; image score"),
        (TWO_STREAMS, "tlm", "discrepancy of the two streams; image score"),
        (REMEMBERING, "fa", "feature aggregation and distance to the remembered features; image score"),
        (REMEMBERING, "fa-alone", "feature aggregation alone; image score"),
        (REMEMBERING, "tlm", "distance to the remembered features; image score"),
    ],
)
def test_the_report_tells_where_the_map_comes_from(
    evaluated: tuple[LineConfig, Workspace, Path], structure: dict[str, object], source: MapSource, told: str
) -> None:
    config = evaluated[0]
    detector = Detector(DetectorFacts(64, "conv3x3", "unit", **structure), map_source=source)  # type: ignore[arg-type]
    assert _facts(config, Manifest(config.root, ()), detector)["Anomaly map"].startswith(told)


def test_second_run_does_nothing_and_a_forced_one_repeats_every_byte(
    evaluated: tuple[LineConfig, Workspace, Path],
) -> None:
    config, workspace, folder = evaluated
    assert evaluate(config, workspace).reused
    before = json.loads((folder / "manifest.json").read_text())["outputs"]
    assert not evaluate(config, workspace, force=True).reused
    assert json.loads((folder / "manifest.json").read_text())["outputs"] == before


@pytest.mark.parametrize(
    ("options", "absent", "empty_curve"),
    [
        ({"defects": 0}, "image_auroc", "roc"),
        ({"masks": False}, "aupro_30", "pro"),
        ({"defects": 0, "good_tests": 0}, "false_reject_rate", "roc"),
    ],
)
def test_lines_without_defects_masks_or_tests_are_evaluated(
    tmp_path: Path, detector_file: Path, options: dict[str, object], absent: str, empty_curve: str
) -> None:
    config, workspace = prepare(tmp_path, detector_file, **options)
    folder = evaluate(config, workspace).folder
    metrics = json.loads((folder / "metrics.json").read_text())
    assert absent not in metrics
    assert "threshold" in metrics
    curve = pd.read_csv(folder / "curves" / f"{empty_curve}.csv")
    assert curve.empty
    assert "fpr" in curve.columns
    assert (folder / "report.html").stat().st_size > 10_000


def test_an_image_that_changed_since_validation_is_named(tmp_path: Path, detector_file: Path) -> None:
    config, workspace = prepare(tmp_path, detector_file)
    changed = tmp_path / "parts" / "test" / "good" / "002.png"
    Image.fromarray(draw_part(1, (64, 64))).save(changed)
    with pytest.raises(UserError, match=rf"{changed}: has changed .*stlm validate"):
        evaluate(config, workspace)
    assert not workspace.folder("evaluate").exists()


def test_a_detector_that_yields_no_numbers_is_ours_to_repair(tmp_path: Path, detector_file: Path) -> None:
    config, workspace = prepare(tmp_path, detector_file)
    broken = load_detector(detector_file)
    with torch.no_grad():
        next(broken.aggregation.parameters()).fill_(float("nan"))
    (tmp_path / "broken").mkdir()
    save_detector(tmp_path / "broken" / "detector.safetensors", broken)
    with pytest.raises(StlmError, match="score is nan") as caught:
        evaluate(config, Workspace(workspace.root, "parts", {"train-fa": tmp_path / "broken"}))
    assert caught.value.exit_code == 1


def test_missing_inputs_name_the_command_that_makes_them(tmp_path: Path) -> None:
    make_line(tmp_path)
    config = load_line(tmp_path / "params.yaml", "parts")
    with pytest.raises(UserError, match="stlm validate --line parts"):
        evaluate(config, Workspace(tmp_path / "outputs", "parts"))


def test_command_reports_the_figures_and_the_report(
    evaluated: tuple[LineConfig, Workspace, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from stlm_core.cli.steps import evaluate_command

    config, workspace, folder = evaluated
    detector = workspace.folder("train-fa")
    evaluate_command("parts", config.root / "params.yaml", workspace.root, [f"train-fa={detector}"])
    shown = capsys.readouterr().out
    assert "image AUROC" in shown
    assert str(folder / "report.html") in shown
