"""One self-contained ``report.html`` that a quality engineer can read: no script, no outside file, printable."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import jinja2
import markupsafe
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from stlm_core.evaluation.evaluate import Evaluation
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
from stlm_core.evaluation.heatmap import TURBO
from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.evaluation.verdict import verdicts

# name, title, what it means; in the order of the report's table
_METRICS = (
    (
        "image_auroc",
        "Image AUROC",
        "How well scores rank parts: the chance that a defective part scores above a good one.",
    ),
    ("image_ap", "Image AP", "Precision averaged over recall; depends on the share of defects in the test set."),
    (
        "image_f1_max",
        "Image F1, best",
        "The best balance of precision and recall that any threshold reaches; needs defects to find it.",
    ),
    (
        "pixel_auroc",
        "Pixel AUROC",
        "The chance that a defective pixel scores above a normal one; large defects dominate.",
    ),
    ("pixel_ap", "Pixel AP", "As image AP, over pixels: strict, because defective pixels are rare."),
    ("pixel_f1_max", "Pixel F1, best", "The best agreement of a thresholded heat map with the ground truth."),
    (
        "aupro_30",
        "AUPRO, up to 30%",
        "Mean share of each defect that is covered, every defect counting the same, while up to 30% of normal "
        "pixels are marked.",
    ),
    ("aupro_05", "AUPRO, up to 5%", "The same while up to 5% of normal pixels are marked: the useful range."),
)


def render_report(
    line: str,
    evaluation: Evaluation,
    operating_point: OperatingPoint,
    calibration_scores: npt.NDArray[np.float64],
    facts: Mapping[str, str],
) -> str:
    """The report as HTML text.

    ``calibration_scores`` (n,): calibrated scores of the held-back good images. ``facts``: name to value, what data,
    model and code this is about; shown as given, in order.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stlm_core.evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metrics = evaluation.metrics
    return environment.get_template("report.html.j2").render(
        line=line,
        verdicts=verdicts(metrics, operating_point),
        operating_point=operating_point,
        point_sentence=operating_point.explain(),
        notes=evaluation.notes,
        metrics=[(title, metrics[name], meaning) for name, title, meaning in _METRICS if name in metrics],
        missing=[title for name, title, _ in _METRICS if name not in metrics],
        defects=_defect_rows(evaluation.defects),
        figures=_figures(evaluation, calibration_scores),
        examples=_examples(evaluation, operating_point.raw_threshold),
        counts={name: metrics.get(name, 0) for name in ("test_good", "test_anomalous", "test_masks", "test_regions")},
        scale=_scale_picture(),
        facts=facts,
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
    return {name: _Picture(_png_uri(light[name]), _png_uri(dark[name]), texts[name]) for name in light}


def _examples(evaluation: Evaluation, raw_threshold: float) -> list[dict[str, object]]:
    captions = ("image", "ground truth", "heat map", "overlay")
    shown = []
    for example in evaluation.examples:
        pictures = zip(captions, tiles(example, raw_threshold), strict=True)
        shown.append(
            {
                "outcome": example.outcome,
                "verdict": OUTCOME_NAMES[example.outcome],
                "defect_type": example.defect_type,
                "path": example.path,
                "score": example.score,
                "no_mask": example.mask is None and example.outcome in ("missed", "found"),
                "tiles": [(caption, _jpeg_uri(pixels)) for caption, pixels in pictures],
            }
        )
    return shown


def _scale_picture() -> str:
    return _png_uri(_encoded(np.repeat(TURBO[None], 12, axis=0), "PNG"))


def _jpeg_uri(pixels: npt.NDArray[np.uint8]) -> markupsafe.Markup:
    return _uri("jpeg", _encoded(pixels, "JPEG"))


def _png_uri(content: bytes) -> markupsafe.Markup:
    return _uri("png", content)


def _uri(kind: str, content: bytes) -> markupsafe.Markup:
    # Base64 holds nothing to escape; escaping megabytes of it would only cost time.
    return markupsafe.Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode()}")


def _encoded(pixels: npt.NDArray[np.uint8], kind: str) -> bytes:
    stream = io.BytesIO()
    options = {"quality": 88, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return stream.getvalue()
