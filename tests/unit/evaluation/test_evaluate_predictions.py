"""Evaluation of a stream of predictions: figures, what is left out, bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as reference

from stlm_core.errors import StlmError
from stlm_core.evaluation.evaluate import Evaluation, evaluate_predictions
from stlm_core.evaluation.intervals import wilson
from stlm_core.evaluation.operating_point import OperatingPoint, fit_operating_point
from stlm_core.evaluation.predictions import Prediction

SIDE = 32
POINT = fit_operating_point(np.linspace(0.1, 0.5, 40), 0.05)


def prediction(number: int, defect_type: str = "good", *, masked: bool = True, side: int = SIDE) -> Prediction:
    rng = np.random.default_rng([number, side])
    anomalous = defect_type != "good"
    mask = np.zeros((side, side), dtype=bool)
    anomaly_map = rng.random((side, side)).astype(np.float32) * 0.4
    if anomalous:
        top, left = rng.integers(2, side - 10, 2)
        mask[top : top + 6, left : left + 8] = True
        anomaly_map[mask] += 0.5 if defect_type == "obvious" else 0.1
    return Prediction(
        path=f"test/{defect_type}/{number:04d}.png",
        label=int(anomalous),
        defect_type=defect_type,
        raw_score=float(np.sort(anomaly_map.ravel())[-20:].mean()),
        anomaly_map=anomaly_map,
        mask=mask if anomalous and masked else None,
        image=rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
    )


def some_predictions(good: int = 12, faint: int = 8, obvious: int = 6, **options: bool) -> list[Prediction]:
    return [
        *(prediction(number) for number in range(good)),
        *(prediction(number, "faint", **options) for number in range(faint)),
        *(prediction(number, "obvious", **options) for number in range(obvious)),
    ]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_predictions(some_predictions(), POINT)


def test_metrics_are_flat_fractions_and_equal_independent_ones(evaluation: Evaluation) -> None:
    predictions = some_predictions()
    labels = [p.label for p in predictions]
    scores = [p.raw_score for p in predictions]
    pixels = np.concatenate([p.anomaly_map.ravel() for p in predictions])
    truth = np.concatenate(
        [(p.mask if p.mask is not None else np.zeros((SIDE, SIDE), bool)).ravel() for p in predictions]
    )
    metrics = evaluation.metrics
    assert metrics["image_auroc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert metrics["image_ap"] == pytest.approx(reference.average_precision_score(labels, scores))
    assert metrics["pixel_auroc"] == pytest.approx(reference.roc_auc_score(truth, pixels), abs=1e-4)
    assert metrics["pixel_ap"] == pytest.approx(reference.average_precision_score(truth, pixels), abs=1e-4)
    rejected = np.array(scores) > POINT.raw_threshold
    assert metrics["recall_at_budget"] == pytest.approx(rejected[12:].mean())
    assert metrics["false_reject_rate"] == pytest.approx(rejected[:12].mean())
    assert metrics["recall_at_budget_low"] <= metrics["recall_at_budget"] <= metrics["recall_at_budget_high"]
    assert metrics["threshold"] == POINT.raw_threshold
    counts = ("test_good", "test_anomalous", "test_masks", "test_regions", "calibration_images", "calibration_parts")
    assert [metrics[name] for name in counts] == [12, 14, 14, 14, 40, 40]
    assert all(isinstance(value, int | float) for value in metrics.values())
    json.dumps(metrics, allow_nan=False)


def test_exact_and_histogram_evaluation_agree(evaluation: Evaluation) -> None:
    exact = evaluate_predictions(some_predictions(), POINT, exact=True).metrics
    assert exact.keys() == evaluation.metrics.keys()
    for name, value in exact.items():
        tolerance = 2e-3 if "f1_max" in name else 1e-4
        assert evaluation.metrics[name] == pytest.approx(value, abs=tolerance), name


def test_defect_types_are_measured_against_all_good_images(evaluation: Evaluation) -> None:
    table = evaluation.defects.set_index("defect_type")
    assert list(table.index) == ["faint", "obvious"]  # worst recall first
    for name in table.index:
        alone = evaluate_predictions([p for p in some_predictions() if p.defect_type in ("good", name)], POINT).metrics
        row = table.loc[name]
        assert row["image_auroc"] == pytest.approx(alone["image_auroc"])
        assert row["pixel_auroc"] == pytest.approx(alone["pixel_auroc"])
        assert row["aupro_30"] == pytest.approx(alone["aupro_30"])
        assert row["recall"] == pytest.approx(alone["recall_at_budget"])
    assert table.loc["obvious", "found"] == 6


def test_order_of_images_does_not_matter(evaluation: Evaluation) -> None:
    turned = evaluate_predictions(reversed(some_predictions()), POINT)
    assert turned.metrics == pytest.approx(evaluation.metrics)
    assert [e.path for e in turned.examples] == [e.path for e in evaluation.examples]


def test_images_table_has_a_row_an_image(evaluation: Evaluation) -> None:
    images = evaluation.images
    assert len(images) == 26
    assert set(images["outcome"]) <= {"found", "missed", "passed", "false_reject"}
    assert ((images["score"] > 0.5) == images["is_anomalous"]).all()


def test_curves_are_those_of_the_metrics(evaluation: Evaluation) -> None:
    roc = evaluation.curves["roc"]
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(evaluation.metrics["image_auroc"])
    pro = evaluation.curves["pro"]
    assert pro["fpr"].iloc[-1] == 1
    assert np.trapezoid(evaluation.curves["pixel_roc"]["tpr"], evaluation.curves["pixel_roc"]["fpr"]) == pytest.approx(
        evaluation.metrics["pixel_auroc"], abs=1e-3
    )


@pytest.mark.parametrize(
    ("predictions", "absent", "present", "told"),
    [
        ([], {"image_auroc", "recall_at_budget", "false_reject_rate", "aupro_30"}, {"threshold"}, "no test images"),
        (
            some_predictions(faint=0, obvious=0),
            {"image_auroc", "recall_at_budget", "pixel_auroc", "aupro_30"},
            {"false_reject_rate"},
            "no defective images",
        ),
        (
            some_predictions(good=0),
            {"image_auroc", "false_reject_rate"},
            {"recall_at_budget", "pixel_auroc", "aupro_30"},
            "no good images",
        ),
        (
            some_predictions(masked=False),
            {"pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_30", "aupro_05"},
            {"image_auroc", "recall_at_budget"},
            "no masks",
        ),
    ],
)
def test_what_is_not_defined_is_left_out_and_explained(
    predictions: list[Prediction], absent: set[str], present: set[str], told: str
) -> None:
    evaluation = evaluate_predictions(predictions, POINT)
    assert not absent & evaluation.metrics.keys()
    assert present <= evaluation.metrics.keys()
    assert told in " ".join(evaluation.notes)
    json.dumps(evaluation.metrics, allow_nan=False)


def test_defective_images_without_mask_count_at_image_level_only() -> None:
    masked = some_predictions()
    extra = [prediction(99, "unmasked", masked=False)]
    with_extra = evaluate_predictions([*masked, *extra], POINT)
    without = evaluate_predictions(masked, POINT)
    assert with_extra.metrics["pixel_auroc"] == without.metrics["pixel_auroc"]
    assert with_extra.metrics["test_anomalous"] == 15
    assert "1 of 15 defective images have no mask" in " ".join(with_extra.notes)
    row = with_extra.defects.set_index("defect_type").loc["unmasked"]
    assert np.isnan(row["pixel_auroc"])
    assert row["images"] == 1


def _with(**changes: object) -> Prediction:
    return replace(prediction(0, "faint"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (_with(raw_score=float("nan")), "score is nan"),
        (_with(raw_score=1.5), "score is 1.5"),
        (_with(anomaly_map=np.full((SIDE, SIDE), np.nan, np.float32)), "finite"),
        (_with(anomaly_map=np.zeros((SIDE, 5), np.float32)), "anomaly map is"),
        (_with(mask=np.zeros((SIDE, 5), bool)), "the mask is"),
        (_with(label=0), "does not go with defect type"),
        (_with(defect_type="good"), "does not go with defect type"),
    ],
)
def test_impossible_predictions_name_the_image(bad: Prediction, told: str) -> None:
    with pytest.raises(StlmError, match=rf"^{bad.path}: .*{told}"):
        evaluate_predictions([bad], POINT)


def _peak_bytes(images: int) -> int:
    def stream() -> Iterator[Prediction]:
        for number in range(images):
            yield prediction(number, "obvious" if number % 3 == 0 else "good", side=96)

    tracemalloc.start()
    try:
        evaluate_predictions(stream(), POINT, report_images=4)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    few, many = _peak_bytes(12), _peak_bytes(120)
    one_map_and_image = 96 * 96 * (4 + 1 + 3)
    assert many - few < 15 * one_map_and_image  # 108 more images, each a table row and a few kilobytes of evidence
    assert many < 80e6


@pytest.mark.parametrize(("count", "total"), [(0, 5), (5, 5), (1, 20), (50, 63)])
def test_wilson_interval(count: int, total: int) -> None:
    from scipy import stats

    expected = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert wilson(count, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_raw_scores_rank_even_where_calibrated_ones_saturate() -> None:
    steep = OperatingPoint(0.01, 0.05, 40, 0.05, 0.6, scale=20.0, calibration_parts=40, parts_above=1)
    predictions = some_predictions()
    assert evaluate_predictions(predictions, steep).metrics["image_auroc"] == pytest.approx(
        reference.roc_auc_score([p.label for p in predictions], [p.raw_score for p in predictions])
    )
