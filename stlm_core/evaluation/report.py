"""One self-contained ``report.html`` that a quality engineer can read: no script, no outside file, printable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from stlm_core.evaluation.evaluate import Evaluation
from stlm_core.evaluation.example_files import CAPTIONS, TRUTH
from stlm_core.evaluation.examples import Example
from stlm_core.evaluation.figures import (
    DARK,
    LIGHT,
    OUTCOME_NAMES,
    Theme,
    pro_figure,
    roc_figure,
    score_histogram,
    tiles,
    to_png,
)
from stlm_core.evaluation.held_back import HeldBack
from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.evaluation.page import page_environment
from stlm_core.evaluation.pictures import colour_scale, data_uri, jpeg
from stlm_core.evaluation.verdict import FIGURES, verdicts


def render_report(
    line: str,
    evaluation: Evaluation,
    operating_point: OperatingPoint,
    calibration_scores: npt.NDArray[np.float64],
    facts: Mapping[str, str],
    held_back: HeldBack,
) -> str:
    """The report as HTML text.

    ``calibration_scores`` (n,): calibrated scores of the held-back good images. ``facts``: name to value, what data,
    model and code this is about; shown as given, in order. ``held_back``: the highest of these scores, with pictures.
    """
    metrics = evaluation.metrics
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            line=line,
            verdicts=verdicts(metrics, operating_point),
            operating_point=operating_point,
            point_sentence=operating_point.explain(),
            notes=evaluation.notes,
            metrics=[(title, metrics[name], meaning) for name, title, meaning in FIGURES if name in metrics],
            missing=[title for name, title, _ in FIGURES if name not in metrics],
            defects=_defect_rows(evaluation.defects),
            figures=_figures(evaluation, calibration_scores),
            examples=[
                _shown(example, operating_point.raw_threshold, OUTCOME_NAMES[example.outcome])
                for example in evaluation.examples
            ],
            at_or_above=held_back.at_or_above,
            highest=[_held_back(example, operating_point.raw_threshold) for example in held_back.examples],
            counts={
                name: metrics.get(name, 0) for name in ("test_good", "test_anomalous", "test_masks", "test_regions")
            },
            scale=colour_scale(),
            facts=facts,
        )
    )


def _defect_rows(defects: pd.DataFrame) -> list[dict[str, object]]:
    rows = [{str(key): value for key, value in row.items()} for row in defects.to_dict(orient="records")]
    return [{key: None if isinstance(v, float) and np.isnan(v) else v for key, v in row.items()} for row in rows]


@dataclass(frozen=True)
class _Picture:
    light: str
    dark: str
    text: str


def _figures(evaluation: Evaluation, calibration_scores: npt.NDArray[np.float64]) -> dict[str, _Picture]:
    images, curves, metrics = evaluation.images, evaluation.curves, evaluation.metrics
    good = images.loc[images["label"] == 0, "score"].to_numpy()
    defects = images.loc[images["label"] == 1, "score"].to_numpy()

    def themed(theme: Theme) -> dict[str, bytes]:
        drawn = {"histogram": to_png(score_histogram(good, defects, calibration_scores, theme))}
        if "roc" in curves:
            drawn["roc"] = to_png(roc_figure(curves, metrics, theme))
        if "pro" in curves:
            drawn["pro"] = to_png(pro_figure(curves["pro"], metrics, theme))
        return drawn

    light, dark = themed(LIGHT), themed(DARK)
    texts = {
        "histogram": "Histogram of image scores of good and defective parts with the threshold",
        "roc": "ROC curve: defective parts found against good parts rejected",
        "pro": "PRO curve: overlap with the defects against normal pixels marked",
    }
    return {name: _Picture(data_uri("png", light[name]), data_uri("png", dark[name]), texts[name]) for name in light}


def _shown(example: Example, raw_threshold: float, verdict: str, left_out: str = "") -> dict[str, object]:
    """What the page shows of ``example``, without the picture of the caption ``left_out``."""
    pictures = zip(CAPTIONS, tiles(example, raw_threshold), strict=True)
    return {
        "outcome": example.outcome,
        "verdict": verdict,
        "path": example.path,
        "score": example.score,
        "no_mask": example.mask is None and example.outcome in ("missed", "found"),
        "tiles": [(caption, data_uri("jpeg", jpeg(pixels))) for caption, pixels in pictures if caption != left_out],
    }


def _held_back(example: Example, raw_threshold: float) -> dict[str, object]:
    place = "above" if example.raw_score > raw_threshold else "at" if example.raw_score == raw_threshold else "below"
    return _shown(example, raw_threshold, f"{place} the threshold", TRUTH)
