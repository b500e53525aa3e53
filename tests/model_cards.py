"""Facts for model cards: a line with two types of defect, one of which is missed half of the time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stlm_core.evaluation.example_files import ExampleFile
from stlm_core.evaluation.intervals import wilson
from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.evaluation.pictures import jpeg
from stlm_core.evaluation.spread import image_spread
from stlm_core.export.facts import ExportFacts
from stlm_core.export.latency import LatencyReport
from stlm_core.export.model_card import ModelCard, model_card
from stlm_core.export.model_card_findings import DefectType, Findings, ImageResult
from stlm_core.export.model_card_making import Making
from stlm_core.export.parity import ParityCase, ParityReport
from stlm_core.models.detector import DetectorFacts
from stlm_core.runtime.capture import CaptureRange
from stlm_core.weights.catalog import lookup

RECALL, REJECTS = wilson(6, 8), wilson(1, 20)
FACTS = ExportFacts(
    line="part",
    profile="fast",
    detector=DetectorFacts(256, "conv3x3", "unit", "lite_medsam", lookup("lite_medsam").sha256, rotation="any"),
    detector_sha256="d" * 64,
    top_pixels=100,
    map_source="fa",
    operating_point=OperatingPoint(0.3, 0.05, 10, 1 / 11, 0.4, 1.5, 10, 0),
    metrics={
        "image_auroc": 0.9512,
        "image_ap": 0.97,
        "pixel_auroc": 0.98,
        "aupro_30": 0.88,
        "recall_at_budget": 0.75,
        "recall_at_budget_low": RECALL[0],
        "recall_at_budget_high": RECALL[1],
        "false_reject_rate": 0.05,
        "false_reject_rate_low": REJECTS[0],
        "false_reject_rate_high": REJECTS[1],
        "test_good": 20,
        "test_anomalous": 8,
        "test_masks": 8,
        "test_regions": 8,
    },
    dataset_sha256="a" * 64,
    test_sha256="b" * 64,
    images={"train": 60, "validation": 8, "calibration": 10, "test": 28},
    data_license="CC0-1.0",
    code_version="0.1.0+abc",
    git_revision="c" * 40 + "-dirty",
    captures=CaptureRange((0.2, 0.8), (3.0, 7.0)),
)
CASE = ParityCase(5, 256, 300, 5, 1.5e-7, 2.5e-7, 1, 1)
PARITY = ParityReport(
    True, 1e-4, 1e-3, 1.5e-7, 2.5e-7, 1, 1, "e" * 64, (CASE,), ({"path": "x"},), {"torch": "2"}, ("CPU",)
)
LATENCY = LatencyReport(90.123, 99.9, 91.0, 88.0, 30, 3, 512, 400, 0, 2, "a CPU", ("CPU",), "1.32", 69.0)
MAKING = Making(
    config_sha256="f" * 64,
    data_revision="3a7b.v1",
    parameters=16_290_000,
    seeds={"data": 0, "distill": 7},
    photo=(320, 240),
)
TILE = jpeg(np.zeros((8, 8, 3), dtype=np.uint8))


def result(number: int, defect_type: str, score: float, missed: bool = False) -> ImageResult:
    """A test image; with a score above 0.3 it is rejected."""
    label = int(defect_type != "good")
    outcome = ("missed" if missed else "found") if label else "passed"
    return ImageResult(f"test/{defect_type}/{number}.png", label, defect_type, score, outcome, bool(label))


def findings_of(weak: str = "scratch", parts: dict[str, str] | None = None) -> Findings:
    """20 good images and 4 defective ones each of ``weak``, half of which are missed, and of "stain"."""
    images = [result(n, "good", 0.02 * n) for n in range(20)]
    images += [result(n, weak, 0.1 + 0.2 * n, missed=n < 2) for n in range(4)]
    images += [result(n, "stain", 0.8) for n in range(4)]
    low, high = wilson(2, 4)
    full = wilson(4, 4)
    pictures = {"image": TILE, "ground truth": TILE, "heat map": TILE, "overlay": TILE}
    return Findings(
        images=tuple(images),
        defects=(
            DefectType(weak, 4, 2, 0.5, low, high, 0.9, 0.7),
            DefectType("stain", 4, 4, 1.0, *full, 1.0, None),
        ),
        examples=(
            ExampleFile(f"test/{weak}/0.png", weak, "missed", 0.2, pictures),
            ExampleFile("test/good/19.png", "good", "false_reject", 0.7, {"image": TILE, "heat map": TILE}),
        ),
        parts=parts or {},
        spread=image_spread(
            [image.label for image in images], [image.raw_score for image in images], [""] * len(images), seed="b"
        ),
    )


NO_FINDINGS = Findings((), (), (), {}, {})


def card(
    facts: ExportFacts = FACTS, findings: Findings | None = None, making: Making = MAKING, **changed: object
) -> ModelCard:
    """A card; ``changed`` are fields of the facts."""
    found = findings_of() if findings is None else findings
    return model_card(replace(facts, **changed), PARITY, LATENCY, found, making)  # type: ignore[arg-type]
