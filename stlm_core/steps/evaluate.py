"""Step ``evaluate``: operating point, metrics, tables, curves, figures and the report of a trained detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from stlm_core.config import EVALUATED_SECTIONS, LineConfig
from stlm_core.data.inspection import name_files
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.errors import StlmError, UserError
from stlm_core.evaluation.detection import Detected, detect
from stlm_core.evaluation.evaluate import Evaluation, Metrics, evaluate_predictions
from stlm_core.evaluation.evidence import FILE as EVIDENCE
from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.example_files import write_examples
from stlm_core.evaluation.figures import contact_sheet, pro_figure, roc_figure, score_histogram, to_png
from stlm_core.evaluation.held_back import HighestScores, held_back
from stlm_core.evaluation.operating_point import OperatingPoint, fit_operating_point
from stlm_core.evaluation.predictions import Prediction
from stlm_core.evaluation.report import render_report
from stlm_core.files import write_bytes_atomic, write_json_atomic
from stlm_core.models.detector import Detector, asks_memory, load_detector, parameters_used
from stlm_core.models.feature_memory import CHANNELS
from stlm_core.models.remembered import add_remembered, save_remembered
from stlm_core.progress import Progress, progress
from stlm_core.steps.contract import StepResult, code_version, run_step
from stlm_core.steps.manifest_images import row_image, row_mask
from stlm_core.steps.workspace import Workspace
from stlm_core.training.optimisation import pick_device
from stlm_core.training.remember_held_back import HeldBackMemory, plan

METRICS = "metrics.json"
OPERATING_POINT = "operating_point.json"
REPORT = "report.html"
REMEMBERED = "remembered.safetensors"
EXAMPLES = "examples"
_CURVES = {"roc": ("fpr", "tpr"), "pixel_roc": ("fpr", "tpr"), "pro": ("fpr", "pro")}


def evaluate(config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Write ``metrics.json``, ``operating_point.json``, ``remembered.safetensors``, ``images.csv``, ``defects.csv``,
    ``calibration.csv``, ``curves/*.csv``, ``figures/*.png``, ``examples/`` (the wrong decisions, for the model card),
    ``evidence.npz`` and ``report.html``.

    The threshold comes from the held-back good images alone, which a detector with a memory remembers afterwards; the
    test split is only measured, with that memory. Maps are let go one by one, so memory does not grow with the number
    of images but for a few kilobytes each.

    Raises:
        UserError: an input is missing or damaged, an image has changed since the manifest was made, or there is no
            held-back good image.
        StlmError: the detector yields something that is no score.
    """
    inputs = {
        "manifest": workspace.need("validate", "manifest.parquet"),
        "detector": workspace.need("train-fa", "detector.safetensors"),
    }

    def work(folder: Path) -> str:
        manifest = Manifest.read(inputs["manifest"], config.resolve(config.data.path))
        if not manifest.calibration():
            raise UserError(
                f"line {config.name}: no held-back good image for the threshold; raise "
                "`data.calibration_fraction` or add good images"
            )
        device = pick_device()
        detector = load_detector(inputs["detector"], config.evaluate.top_pixels, config.evaluate.map_source).to(device)
        asks = asks_memory(detector.facts, detector.map_source)
        total = len(manifest.calibration()) * (2 if asks else 1) + len(manifest.test())
        with progress(f"evaluate {config.name}", total) as shown:
            runner = _Runner(config, manifest, detector, device, shown)
            calibration, remembered = runner.remembered_scores() if asks else runner.calibration_scores()
            save_remembered(folder / REMEMBERED, remembered)
            add_remembered(detector, folder / REMEMBERED)
            raw = calibration["raw_score"].to_numpy()
            hashes = {row.path: row.sha256 for row in manifest.calibration()}  # copies of one file are one part
            parts = [part or hashes[path] for part, path in zip(calibration["part"], calibration["path"], strict=True)]
            point = fit_operating_point(raw, config.evaluate.false_reject_budget, parts)
            _require_room_above(point, calibration, config.name)
            evaluation = evaluate_predictions(
                runner.test_predictions(), point, report_images=config.evaluate.report_images
            )
        evaluation = replace(evaluation, notes=[*_calibration_notes(point, calibration), *evaluation.notes])
        calibration["score"] = point.calibrate(calibration["raw_score"].to_numpy()).astype(np.float64)
        _write_tables(folder, evaluation, calibration, point)
        _with_training_images(evaluation.evidence, manifest).save(folder / EVIDENCE)
        _write_figures(folder / "figures", evaluation, calibration["score"].to_numpy(), point)
        write_examples(folder / EXAMPLES, evaluation.examples, point.raw_threshold)
        highest = held_back(runner.highest.sorted(), raw, point)
        facts = _facts(config, manifest, detector)
        html = render_report(config.name, evaluation, point, calibration["score"].to_numpy(), facts, highest)
        write_bytes_atomic(folder / REPORT, html.encode())
        return _summary(evaluation.metrics)

    return run_step("evaluate", config, EVALUATED_SECTIONS, inputs, workspace.folder("evaluate"), work, force=force)


class _Runner:
    """The detector over the splits of one manifest, under one progress display."""

    def __init__(
        self, config: LineConfig, manifest: Manifest, detector: Detector, device: torch.device, shown: Progress
    ) -> None:
        self.config, self.manifest, self.detector, self.device, self.shown = config, manifest, detector, device, shown
        self.max_pixels = config.data.max_pixels
        self.highest = HighestScores(config.evaluate.report_images > 0)

    def calibration_scores(self) -> tuple[pd.DataFrame, Tensor]:
        """Columns path, part ("" if not known) and raw_score of the held-back good images; nothing to remember."""
        return self._scores(self._detect(self.manifest.calibration(), "threshold")), torch.zeros(0, CHANNELS)

    def remembered_scores(self) -> tuple[pd.DataFrame, Tensor]:
        """The same, every part scored by a memory that has the others, and what they add to it."""
        manifest = self.manifest
        parts: dict[tuple[str, str], list[ManifestRow]] = {}
        for row in manifest.calibration():
            # Copies of one file are one part, or each would be scored by what the other adds.
            parts.setdefault((row.group, "" if row.group else row.sha256), []).append(row)

        learned_from = len(manifest.train()) + len(manifest.validation())
        planned = plan(self.detector.facts.memory, learned_from, len(manifest.calibration()))

        def images() -> Iterator[tuple[tuple[str, str], npt.NDArray[np.uint8]]]:
            for part, rows in parts.items():
                for row in rows:
                    if planned.chooses(row.sha256):
                        yield part, row_image(manifest, row, self.max_pixels)
                    self.shown.advance(note="remember")

        memory = HeldBackMemory(self.detector, images(), planned.each, self.device)

        def found() -> Iterator[Detected[ManifestRow]]:
            for part, rows in parts.items():
                with memory.without(part):
                    yield from self._detect(rows, "threshold")

        return self._scores(found()), memory.added()

    def _scores(self, found: Iterable[Detected[ManifestRow]]) -> pd.DataFrame:
        scores = []
        for one in found:
            if not 0 <= one.raw_score <= 1:
                raise StlmError(
                    f"{one.item.path}: the detector's score is {one.raw_score}, not a number in [0, 1]; train again"
                )
            self.highest.offer(one.item.path, one)
            scores.append((one.item.path, one.item.group, one.raw_score))
        return pd.DataFrame(scores, columns=["path", "part", "raw_score"])

    def test_predictions(self) -> Iterator[Prediction]:
        """The test split, one image at a time, with masks at their own resolution."""
        for found in self._detect(self.manifest.test(), "test"):
            row = found.item
            yield Prediction(
                row.path,
                row.label,
                row.defect_type,
                found.raw_score,
                found.anomaly_map,
                row_mask(self.manifest, row, (found.image.shape[0], found.image.shape[1]), self.max_pixels),
                found.image,
                row.sha256,
                row.group,
            )

    def _detect(self, rows: Iterable[ManifestRow], note: str) -> Iterator[Detected[ManifestRow]]:
        images = ((row, row_image(self.manifest, row, self.max_pixels)) for row in rows)
        for found in detect(self.detector, images, self.device, self.config.evaluate.batch_size):
            yield found
            self.shown.advance(note=note)


def _with_training_images(evidence: Evidence, manifest: Manifest) -> Evidence:
    """So that the detector is never compared with another one on images that it was made from."""
    rows = [row for row in manifest.rows if row.split != "test"]
    return replace(
        evidence,
        trained_on=np.array(sorted({row.sha256 for row in rows}), dtype=np.str_),
        trained_parts=np.array(sorted({row.group for row in rows if row.group}), dtype=np.str_),
    )


def _require_room_above(point: OperatingPoint, calibration: pd.DataFrame, line: str) -> None:
    """Refuse a threshold that no score can exceed: nothing would ever be rejected, and every later check would pass."""
    if point.raw_threshold >= 1:
        highest = calibration.loc[calibration["raw_score"] >= 1, "path"].tolist()
        raise UserError(
            f"line {line}: the threshold is the highest score there is, so nothing would ever be rejected. It comes "
            f"from held-back good images: {name_files(highest)}. Take out what is not good, or no picture of this line"
        )


def _calibration_notes(point: OperatingPoint, calibration: pd.DataFrame) -> list[str]:
    notes = [] if point.certified else [point.explain()]
    part = calibration.sort_values("raw_score")["part"].iloc[-1]
    alone = calibration["part"] == part
    highest = calibration.loc[~alone, "raw_score"].max()
    outstanding = int((calibration.loc[alone, "raw_score"] > highest).sum())
    # With one image far above the others the limit lies below it, and the image decides.
    above_all = point.raw_threshold > calibration["raw_score"].max()
    if part and outstanding > 1 and point.raw_threshold > highest:
        decides = "widens the spread that sets" if above_all else "alone decides"
        notes.append(
            f"The {outstanding} highest scores of held-back good images are all of one part, {part}, which {decides} "
            "the threshold. Look at them (calibration.csv): if that part is not good, take it out of the line's images."
        )
    if above_all:
        notes.append(
            f"The threshold, {point.raw_threshold:.4f} as a raw score, lies above the highest of the few held-back "
            f"good images, {calibration['raw_score'].max():.4f}. The nearer it is to 1, the less will be found; more "
            "good images bring it down, and so does a higher evaluate.false_reject_budget."
        )
    return notes


def _write_tables(folder: Path, evaluation: Evaluation, calibration: pd.DataFrame, point: OperatingPoint) -> None:
    write_json_atomic(folder / METRICS, evaluation.metrics)
    write_json_atomic(folder / OPERATING_POINT, point.to_dict())
    tables = {"images.csv": evaluation.images, "defects.csv": evaluation.defects, "calibration.csv": calibration}
    for name, columns in _CURVES.items():
        # A curve that is not defined is a file without rows, so that plots always find their file.
        tables[f"curves/{name}.csv"] = evaluation.curves.get(name, pd.DataFrame(columns=[*columns, "threshold"]))
    for name, table in tables.items():
        write_bytes_atomic(folder / name, table.to_csv(index=False, lineterminator="\n").encode())


def _write_figures(
    folder: Path, evaluation: Evaluation, held_back: npt.NDArray[np.float64], point: OperatingPoint
) -> None:
    images, metrics, curves = evaluation.images, evaluation.metrics, evaluation.curves
    good, defects = (images.loc[images["label"] == label, "score"].to_numpy() for label in (0, 1))
    figures = {
        "score_histogram": score_histogram(good, defects, held_back),
        "contact_sheet": contact_sheet(evaluation.examples, point.raw_threshold),
    }
    if "roc" in curves:
        figures["roc"] = roc_figure(curves, metrics)
    if "pro" in curves:
        figures["pro"] = pro_figure(curves["pro"], metrics)
    for name, figure in figures.items():
        write_bytes_atomic(folder / f"{name}.png", to_png(figure))


def _facts(config: LineConfig, manifest: Manifest, detector: Detector) -> dict[str, str]:
    splits = ("train", "validation", "calibration", "test")
    counts = ", ".join(f"{len(manifest.split(split))} {split}" for split in splits)
    facts = detector.facts
    return {
        "Images": counts,
        "Data (sha256 of the manifest's rows)": manifest.digest(),
        "Licence of the data": config.data.license,
        "Teacher": f"{facts.teacher or 'not recorded'} ({facts.teacher_sha256 or 'no digest'})",
        "Network input": f"{facts.size} x {facts.size} pixels",
        "Anomaly map": f"{_source(detector)}; image score: mean of the {detector.top_pixels} largest pixels",
        "Parameters": f"{parameters_used(detector) / 1e6:.2f} million",
        "Seeds": f"data {config.data.seed}, distill {config.distill.seed}, train-fa {config.fa.seed}",
        **_memory_facts(detector, len(manifest.calibration())),
        "Code": code_version(),
    }


def _memory_facts(detector: Detector, held_back_images: int) -> dict[str, str]:
    if not asks_memory(detector.facts, detector.map_source):
        return {}
    told = (
        f"{detector.facts.memory:,} features, some of them from the {held_back_images} images of the threshold, every "
        "one of which was scored without those of its own part; the chance that this very threshold keeps the budget "
        "is therefore an approximation"
    )
    return {"Memory": told}


def _source(detector: Detector) -> str:
    """Where the anomaly map comes from."""
    remembered = asks_memory(detector.facts, detector.map_source)
    if detector.map_source == "tlm":
        return "distance to the remembered features" if remembered else "discrepancy of the two streams"
    if detector.map_source == "fa-alone":
        return "feature aggregation alone"
    return f"feature aggregation{' and distance to the remembered features' if remembered else ''}"


def _summary(metrics: Metrics) -> str:
    shown = (
        ("image AUROC", "image_auroc"),
        ("pixel AUROC", "pixel_auroc"),
        ("AUPRO", "aupro_30"),
        ("recall", "recall_at_budget"),
        ("false rejects", "false_reject_rate"),
        ("threshold", "threshold"),
    )
    return ", ".join(f"{title} {metrics[name]:.4f}" for title, name in shown if name in metrics)
