"""Figures of an evaluation, drawn without a display and without pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stlm_core.evaluation.examples import THUMBNAIL_SIDE, Example, Outcome
from stlm_core.evaluation.heatmap import heat_map, outline, overlay

OUTCOME_NAMES: dict[Outcome, str] = {
    "missed": "missed defect",
    "false_reject": "false reject",
    "found": "defect found",
    "passed": "good part passed",
}


_SHEET_DPI = 100
_GAP, _CAPTION = 4, 30  # pixels of the contact sheet
_NAME_LETTERS = 64


@dataclass(frozen=True)
class Theme:
    """Colours of one appearance; blue is good and orange defective, which colour-blind readers tell apart."""

    background: str
    text: str
    grid: str
    good: str
    defect: str
    accent: str


LIGHT = Theme("#ffffff", "#1f2733", "#dfe4ea", "#2f6fb7", "#d9730d", "#1f2733")
DARK = Theme("#171c24", "#dbe2ea", "#323b48", "#6fa8ea", "#f29a4a", "#dbe2ea")


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes; the same figure gives the same bytes."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return stream.getvalue()


def roc_figure(curves: Mapping[str, pd.DataFrame], metrics: Mapping[str, float | int], theme: Theme = LIGHT) -> Figure:
    """ROC at image level and, where defined, at pixel level; ``curves`` and ``metrics`` of an evaluation."""
    figure, axes = _axes(theme, 4.6, 4.2)
    axes.plot([0, 1], [0, 1], color=theme.grid, linewidth=1)
    lines = (("roc", "image", theme.defect, "-"), ("pixel_roc", "pixel", theme.good, "--"))
    for name, level, colour, style in lines:
        if name in curves:
            curve = curves[name]
            label = f"{level}s: AUROC {metrics[f'{level}_auroc']:.3f}"
            axes.plot(curve["fpr"], curve["tpr"], color=colour, linestyle=style, linewidth=2, label=label)
    axes.set(xlabel="good rejected (share)", ylabel="defective found (share)", xlim=(-0.01, 1), ylim=(0, 1.01))
    _legend(axes, theme, "lower right")
    return figure


def pro_figure(curve: pd.DataFrame, metrics: Mapping[str, float | int], theme: Theme = LIGHT) -> Figure:
    """Per-region overlap up to a false positive rate of 0.3, with the two integration limits."""
    figure, axes = _axes(theme, 4.6, 4.2)
    axes.plot(curve["fpr"], curve["pro"], color=theme.defect, linewidth=2)
    limits = ((0.3, metrics["aupro_30"], ":", "0.30"), (0.05, metrics["aupro_05"], "--", "0.05"))
    for limit, area, style, name in limits:
        axes.axvline(limit, color=theme.accent, linestyle=style, linewidth=1, label=f"AUPRO up to {name}: {area:.3f}")
    axes.set(xlabel="normal pixels marked (share)", ylabel="overlap with each defect (mean share)")
    axes.set(xlim=(-0.003, 0.32), ylim=(0, 1.01))
    _legend(axes, theme, "best")
    return figure


def score_histogram(
    good: npt.NDArray[np.float64],
    defects: npt.NDArray[np.float64],
    held_back: npt.NDArray[np.float64],
    theme: Theme = LIGHT,
) -> Figure:
    """Calibrated scores of good, defective and held-back good images, with the threshold at 0.5."""
    figure, axes = _axes(theme, 9.4, 3.4)
    # A bin includes its upper edge, as the decision does: a score of exactly 0.5 is passed.
    edges = [0.0, *(place / 40 + 1e-6 for place in range(1, 41))]
    axes.hist(good, color=theme.good, alpha=0.75, bins=edges, rwidth=0.92, label=f"good, test ({len(good)})")
    axes.hist(
        defects, color=theme.defect, alpha=0.7, bins=edges, rwidth=0.92, label=f"defective, test ({len(defects)})"
    )
    axes.hist(
        held_back,
        bins=edges,
        histtype="step",
        color=theme.text,
        linewidth=1.2,
        label=f"good, held back for the threshold ({len(held_back)})",
    )
    axes.axvline(0.5, color=theme.accent, linewidth=1.5, linestyle="--")
    top = axes.get_ylim()[1]
    axes.text(0.494, top * 0.97, "passed", ha="right", va="top", color=theme.text, fontsize=9)
    axes.text(0.506, top * 0.97, "rejected", ha="left", va="top", color=theme.text, fontsize=9)
    axes.set(xlabel="image score (threshold 0.5)", ylabel="images", xlim=(0, 1))
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9, labelcolor=theme.text
    )
    return figure


def tiles(example: Example, raw_threshold: float) -> tuple[npt.NDArray[np.uint8], ...]:
    """Image, ground truth (outlined; the plain image where there is none), heat map, overlay: uint8 (h, w, 3) each."""
    truth = example.image if example.mask is None else outline(example.image, example.mask)
    return (
        example.image,
        truth,
        heat_map(example.anomaly_map, raw_threshold),
        overlay(example.image, example.anomaly_map, raw_threshold),
    )


def contact_sheet(examples: Sequence[Example], raw_threshold: float, theme: Theme = LIGHT) -> Figure:
    """Two examples a row, worst misses first; each shows image, ground truth, heat map and overlay."""
    pitch, rows = THUMBNAIL_SIDE + _GAP, -(-len(examples) // 2)
    row_height, strip_width = pitch + _CAPTION, 4 * pitch
    width, height = 2 * strip_width + 3 * _GAP, rows * row_height + _CAPTION
    sheet = np.full((height, width, 3), _rgb(theme.background), dtype=np.uint8)
    # One picture for all tiles and text at fixed places: a plot for each example takes ten times as long.
    figure = Figure(figsize=(width / _SHEET_DPI, height / _SHEET_DPI), dpi=_SHEET_DPI, facecolor=theme.background)

    def write(left: int, top: int, text: str, colour: str) -> None:
        figure.text(left / width, 1 - top / height, text, fontsize=11, color=colour, va="top", parse_math=False)

    caption = "image · ground truth outlined in magenta · heat map (green: the threshold) · overlay"
    write(_GAP, 8, caption if examples else "no test images", theme.text)
    for place, example in enumerate(examples):
        top = _CAPTION + (place // 2) * row_height
        left = _GAP + (place % 2) * (strip_width + _GAP)
        for position, picture in enumerate(tiles(example, raw_threshold)):
            _centre(sheet, picture, top + _CAPTION, left + position * pitch)
        name = example.path if len(example.path) <= _NAME_LETTERS else f"…{example.path[1 - _NAME_LETTERS :]}"
        wrong = example.outcome in ("missed", "false_reject")
        text = f"{OUTCOME_NAMES[example.outcome]} · score {example.score:.2f} · {name}"
        write(left, top + 10, text, theme.defect if wrong else theme.text)
    figure.figimage(sheet)
    return figure


def _centre(sheet: npt.NDArray[np.uint8], picture: npt.NDArray[np.uint8], top: int, left: int) -> None:
    """Put the picture into the middle of the square place whose corner is given."""
    height, width = picture.shape[:2]
    top, left = top + (THUMBNAIL_SIDE - height) // 2, left + (THUMBNAIL_SIDE - width) // 2
    sheet[top : top + height, left : left + width] = picture


def _rgb(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _axes(theme: Theme, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=130, facecolor=theme.background, layout="constrained")
    axes = figure.add_subplot(facecolor=theme.background)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.text, length=0)
    axes.xaxis.label.set_color(theme.text)
    axes.yaxis.label.set_color(theme.text)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    return figure, axes


def _legend(axes: Axes, theme: Theme, place: Literal["lower right", "best"]) -> None:
    axes.legend(
        loc=place,
        facecolor=theme.background,
        edgecolor=theme.background,
        framealpha=1,
        fontsize=9,
        labelcolor=theme.text,
    )
