"""Figures, verdicts and the report."""

from __future__ import annotations

import io
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from stlm_core.evaluation.evaluate import Evaluation, evaluate_predictions
from stlm_core.evaluation.figures import DARK, contact_sheet, score_histogram, to_png
from stlm_core.evaluation.held_back import HeldBack
from stlm_core.evaluation.intervals import wilson
from stlm_core.evaluation.operating_point import fit_operating_point
from stlm_core.evaluation.predictions import Prediction
from stlm_core.evaluation.report import render_report
from stlm_core.evaluation.verdict import verdicts

POINT = fit_operating_point(np.linspace(0.05, 0.4, 40), 0.05)
HELD_BACK = POINT.calibrate(np.linspace(0.05, 0.4, 40)).astype(np.float64)
NOBODY = HeldBack()
HOSTILE = "<script>alert(1)</script>"


def prediction(number: int, defect_type: str, masked: bool = True) -> Prediction:
    rng = np.random.default_rng([number, len(defect_type)])
    mask = np.zeros((24, 24), dtype=bool)
    mask[4:12, 6 + number % 4 : 14] = True
    anomaly_map = (rng.random((24, 24)) * 0.3).astype(np.float32)
    if defect_type != "good":
        anomaly_map[mask] += 0.2 + 0.1 * (number % 5)
    return Prediction(
        f"test/{defect_type}/{number}.png",
        int(defect_type != "good"),
        defect_type,
        float(np.sort(anomaly_map.ravel())[-30:].mean()),
        anomaly_map,
        mask if masked and defect_type != "good" else None,
        rng.integers(0, 256, (24, 24, 3), dtype=np.uint8),
    )


def evaluated(good: int = 10, defects: int = 8, masked: bool = True, name: str = "scratch") -> Evaluation:
    predictions = [prediction(n, "good") for n in range(good)] + [prediction(n, name, masked) for n in range(defects)]
    return evaluate_predictions(predictions, POINT, report_images=6)


def render(evaluation: Evaluation, held_back: HeldBack = NOBODY) -> Page:
    return Page(render_report("bottle", evaluation, POINT, HELD_BACK, {"Teacher": "lite_medsam"}, held_back))


def test_report_is_one_file_without_scripts_or_outside_addresses() -> None:
    page = render(evaluated())
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object"}
    for _, attributes in page.tags:
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "data:image/").startswith("data:image/")
    assert len([tag for tag, _ in page.tags if tag == "img"]) >= 3 + 4 * 6


def test_report_says_the_essentials_in_words() -> None:
    evaluation = evaluated()
    text = re.sub(r"\s+", " ", render(evaluation).text)
    assert "Of 1000 good parts about" in text
    assert "Of 100 defective parts like those tested" in text
    assert POINT.explain() in text
    assert "missed defect" in text
    assert "AUPRO" in text
    assert "lite_medsam" in text
    assert "scratch" in text


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        (evaluated(0, 0), "no test images"),
        (evaluated(defects=0), "no defective test image"),
        (evaluated(good=0), "there is no good test image"),
        (evaluated(masked=False), "no masks to compare"),
    ],
)
def test_report_works_without_images_defects_or_masks(evaluation: Evaluation, told: str) -> None:
    assert told in re.sub(r"\s+", " ", render(evaluation).text)


def test_names_from_the_data_cannot_inject_markup() -> None:
    page = render(evaluated(name=HOSTILE))
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in page.text


def test_report_shows_the_highest_scores_of_held_back_images() -> None:
    example = evaluate_predictions([prediction(0, "good")], POINT).examples[0]
    above = replace(example, path="train/good/007.png", raw_score=POINT.raw_threshold + 0.1, outcome="false_reject")
    at = replace(example, path=f"train/good/{HOSTILE}.png", raw_score=POINT.raw_threshold)
    page = render(evaluated(), HeldBack((above, at, replace(at, raw_score=0.1)), 2))
    text = re.sub(r"\s+", " ", page.text)
    assert "from 40 held-back good images: 2 of them are at or above it. Here are the 3 highest." in text
    one = re.sub(r"\s+", " ", render(evaluated(), HeldBack((at,), 1)).text)
    assert "1 of them is at or above it. Here is the highest." in one
    for place in ("above", "at", "below"):
        assert f"{place} the threshold" in text
    alternatives = [attributes.get("alt") or "" for tag, attributes in page.tags if tag == "img"]
    shown = [text for text in alternatives if text.endswith("train/good/007.png")]
    assert shown == [f"{what} of train/good/007.png" for what in ("image", "heat map", "overlay")]
    assert "script" not in {tag for tag, _ in page.tags}
    assert "The highest scores" not in render(evaluated()).text


def test_same_evaluation_gives_the_same_bytes() -> None:
    first = render_report("bottle", evaluated(), POINT, HELD_BACK, {}, NOBODY)
    assert first == render_report("bottle", evaluated(), POINT, HELD_BACK, {}, NOBODY)


def test_figures_draw_off_the_main_thread_and_with_nothing_to_show() -> None:
    drawn: list[bytes] = []

    def draw() -> None:
        nothing = np.zeros(0)
        drawn.append(to_png(score_histogram(nothing, nothing, HELD_BACK, DARK)))
        drawn.append(to_png(contact_sheet([], 0.3)))
        drawn.append(to_png(contact_sheet(evaluated().examples[:3], 0.3)))

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    sizes = [Image.open(io.BytesIO(content)).size for content in drawn]
    assert len(sizes) == 3
    assert sizes[2][1] > sizes[1][1]


@pytest.mark.parametrize(
    ("rate", "tone", "told"),
    [
        (0.02, "good", "about 20 would be rejected"),
        (0.1, "warn", "within what chance allows"),
        (0.4, "bad", "More than chance explains"),
    ],
)
def test_false_rejects_are_judged_against_budget_and_chance(rate: float, tone: str, told: str) -> None:
    metrics = {
        "false_reject_rate": rate,
        "false_reject_rate_low": rate / 2,
        "false_reject_rate_high": 0.6,
        "test_good": 50,
    }
    rejected, found, located = verdicts(metrics, POINT)
    assert rejected.tone == tone
    assert told in rejected.sentence
    assert (found.value, located.value) == ("unknown", "unknown")


@pytest.mark.parametrize(("held_back", "tested", "each"), [(8, 10, 1), (19, 50, 1), (40, 100, 1), (12, 40, 4)])
def test_chance_counts_the_held_back_images_too(held_back: int, tested: int, each: int) -> None:
    """Good images of one source: what is held back and what is tested differ by chance alone."""
    rng = np.random.default_rng(1)
    blamed, draws = 0, 400
    parts = [str(number // each) for number in range(held_back)]
    for _ in range(draws):
        shared = np.repeat(rng.gumbel(size=(held_back + tested) // each), each)
        scores = 1 / (1 + np.exp(4 - shared - rng.normal(0, 0.1, len(shared)) * (each > 1)))
        point = fit_operating_point(scores[:held_back], 0.05, parts)
        rejected = int(point.is_anomalous(scores[held_back:]).sum())
        low, high = wilson(rejected, tested)
        metrics = {
            "false_reject_rate": rejected / tested,
            "false_reject_rate_low": low,
            "false_reject_rate_high": high,
            "test_good": tested,
        }
        blamed += "More than chance" in verdicts(metrics, point)[0].sentence
    assert blamed / draws <= 0.04
