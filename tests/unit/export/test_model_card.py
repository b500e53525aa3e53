"""What a model card states, for lines with and without defects, masks and test images."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from model_cards import FACTS, MAKING, NO_FINDINGS, RECALL, card, findings_of

from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.export.facts import ExportFacts
from stlm_core.export.model_card import ModelCard
from stlm_core.export.model_card_html import card_html
from stlm_core.export.model_card_markdown import card_markdown
from stlm_core.export.model_card_operating import at_most, count, operating
from stlm_core.weights.catalog import CATALOG, lookup

POINT = FACTS.operating_point


def text_of(shown: ModelCard) -> str:
    """The card's Markdown without escapes, in one line."""
    return re.sub(r"\s+", " ", re.sub(r"\\(.)", r"\1", card_markdown(shown)))


def without_test_images() -> ExportFacts:
    images = {**FACTS.images, "test": 0}
    return replace(FACTS, metrics={"test_good": 0, "test_anomalous": 0}, images=images, test_sha256="")


def without_defects() -> ExportFacts:
    kept = ("false_reject_rate", "false_reject_rate_low", "false_reject_rate_high", "test_good")
    return replace(FACTS, metrics={name: FACTS.metrics[name] for name in kept} | {"test_anomalous": 0})


def test_figures_intervals_and_revision() -> None:
    text = card_markdown(card())
    low, high = (f"{100 * share:.1f}%" for share in RECALL)
    assert f"| Recall at the threshold | 75.0% | {low} to {high} | Wilson, over test images |" in text
    assert re.search(r"\| Image AUROC \| 95\.1% \| \d+\.\d% to \d+\.\d% \| bootstrap over test images \|", text)
    assert "| AUPRO, up to 30% | 88.0% |  | spread not measured |" in text
    assert "too few to certify the budget" in text
    assert "| 5 | 300 x 256 | 5 | 1.5e-07 | 2.5e-07 | 1 (1 within tolerance of the threshold) |" in text
    assert "| one image, median | 90.1 ms |" in text
    assert f"git checkout {'c' * 40}\n" in text
    assert "stlm data pull --line part\ndvc repro export@part\n" in text
    assert "had local changes" in text
    assert "not for commercial use" not in text
    assert "seeds data 0, distill 7" in text


def test_both_renderings_state_the_same() -> None:
    shown = card(data_license="CC BY-NC-SA 4.0")
    page, text = card_html(shown), text_of(shown)
    hashes = (*(letter * 64 for letter in "eabdf"), "c" * 40)
    for stated in (*hashes, "3a7b.v1", "0.1.0+abc", "CC BY-NC-SA 4.0"):
        assert stated in page
        assert stated in text
    for sentence in (*shown.limits, shown.weakness.summary, shown.model, shown.repeatable, shown.point):
        assert sentence in page
        assert sentence in text


def test_non_commercial_weights_are_flagged_before_everything_else() -> None:
    shown = card(data_license="CC BY-NC-SA 4.0")
    assert [flag.tone for flag in shown.flags] == ["bad"]
    sentence = "These weights are not for commercial use: the line's images are under CC BY-NC-SA 4.0."
    for rendered in (card_markdown(shown), card_html(shown).replace("&#39;", "'")):
        assert rendered.index(sentence) < rendered.index("Good parts rejected")


def test_the_weights_that_a_trained_stream_starts_from_are_named_with_their_licence() -> None:
    rows = dict(card(start="mobile_sam").teacher)
    entry = lookup("mobile_sam")
    assert rows["trained stream starts from"] == "mobile_sam"
    assert rows["weights it starts from, sha256"] == entry.sha256
    assert rows["licence of these"] == f"Apache-2.0; trained on {entry.trained_on}"
    assert "mobile_sam" in text_of(card(start="mobile_sam"))
    assert "trained stream starts from" not in text_of(card())


def test_weights_that_forbid_commercial_use_are_flagged_where_a_stream_starts_from_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CATALOG, "mobile_sam", replace(lookup("mobile_sam"), license="X-NC", non_commercial=True))
    assert [flag.tone for flag in card(start="mobile_sam").flags] == ["bad"]
    told = "the trained stream's start mobile_sam is under X-NC"
    assert replace(FACTS, start="mobile_sam").metadata()["non_commercial"] == told
    assert card().flags == ()


def test_an_unknown_licence_and_foreign_weights_are_pointed_out() -> None:
    foreign = replace(FACTS.detector, teacher_sha256="0" * 64)
    text = text_of(card(data_license="unknown", detector=foreign))
    assert "The licence of the line's images is not recorded." in text
    assert "not known: the weights are not those of the catalogue" in text
    assert [flag.title for flag in card(detector=foreign).flags] == ["Licence of the teacher unknown"]


def test_without_test_images_nothing_is_claimed() -> None:
    shown = card(without_test_images(), NO_FINDINGS)
    text = text_of(shown)
    assert shown.figures == ()
    assert shown.weakness.types == ()
    assert "nothing could be measured, only the operating point is known" in text
    assert "How many defective parts are missed is not known" in text
    assert "defective parts passed as good" not in text
    assert "No defective part was tested" in text
    assert "no test images" in text
    assert "≤ 9.1%" in text
    assert "What it is for" in card_html(shown)


def test_without_defects_the_false_rejects_are_measured_and_the_rest_is_not() -> None:
    good_only = replace(findings_of(), images=findings_of().images[:20], defects=(), examples=(), spread={})
    shown = card(without_defects(), good_only)
    assert [figure.name for figure in shown.figures] == ["false_reject_rate"]
    text = text_of(shown)
    assert "no weakness is known. That is not the same as having none" in text
    assert "measured on 20 good test images" in text
    assert "28: 20 good, none defective" in text
    assert "Not defined for this test set: Image AUROC;" in text


def test_without_masks_the_card_says_that_location_was_not_measured() -> None:
    metrics = {name: value for name, value in FACTS.metrics.items() if not name.startswith(("pixel", "aupro"))}
    findings = findings_of()
    unmarked = replace(findings, images=tuple(replace(image, has_mask=False) for image in findings.images))
    text = text_of(card(replace(FACTS, metrics=metrics | {"test_masks": 0}), unmarked))
    assert "whether defects are located was not measured" in text
    assert "spread was not measured of" not in text


def test_weak_types_are_named_with_their_pictures() -> None:
    shown = card()
    assert shown.weakness.summary.startswith("2 of 8 defective test images were missed, in 1 of 2 types.")
    assert [example.path for example in shown.weakness.missed] == ["test/scratch/0.png"]
    assert [example.path for example in shown.weakness.rejected] == ["test/good/19.png"]
    assert "The weakest is scratch: 2 of 4 found" in text_of(shown)
    found = replace(findings_of(), defects=findings_of().defects[1:])
    assert "All 4 defective test images were found." in card(findings=found).weakness.summary


def test_every_kind_of_unknown_is_stated() -> None:
    text = text_of(card())
    assert "Robustness was not measured: other light" in text
    assert "spread over seeds is not known" in text
    assert "Defects much smaller than 20 x 15 pixels of a 320 x 240 photograph" in text
    assert "Only these kinds of defect were tested: scratch, stain." in text
    assert "The spread was not measured of: pixel AUROC, AUPRO." in text
    assert "At least 19 held-back good images are needed" in text
    assert "a mean brightness outside 0.20 to 0.80 of white" in text
    perfect = replace(findings_of(), spread={})
    assert "The spread of the image AUROC could not be measured" in text_of(card(findings=perfect))


def test_how_parts_were_turned_in_training_is_stated() -> None:
    assert "turned by any angle" in text_of(card())
    unknown = replace(FACTS.detector, rotation="")
    assert "how they were turned is not recorded" in text_of(card(detector=unknown))


def test_images_of_one_part_are_pointed_out() -> None:
    parts = {f"test/good/{number}.png": f"part{number // 2}" for number in range(20)}
    assert "20 test images show 10 different parts" in text_of(card(findings=findings_of(parts=parts)))
    assert "different parts" not in text_of(card())


def test_images_that_are_not_under_dvc_are_named_by_their_hash() -> None:
    shown = card(making=replace(MAKING, data_revision=""), git_revision="")
    assert not any("pull" in command or "checkout" in command for command in shown.commands)
    assert any("a" * 12 in command for command in shown.commands)
    assert "The commit of the code is not known." in shown.repeatable


def test_streams_alone_are_described_as_such() -> None:
    assert "feature aggregation" in card().model
    assert "feature aggregation" not in card(map_source="tlm").model


@pytest.mark.parametrize(
    ("source", "denoising", "remembered", "ending"),
    [
        ("fa", False, True, "the mean of its verdict and the remembered features'."),
        ("fa-alone", False, False, "its verdict is the anomaly map."),
        ("fa-alone", True, False, "its verdict is the anomaly map."),
        ("tlm", False, True, "That distance is the anomaly map."),
        ("tlm", True, False, "Their disagreement, position by position, is the anomaly map."),
    ],
)
def test_remembered_features_are_named_where_they_are_asked(
    source: str, denoising: bool, remembered: bool, ending: str
) -> None:
    structure = {"plain_stream": "teacher", "aggregation": "decoder", "denoising": denoising, "memory": 200}
    shown = card(map_source=source, detector=replace(FACTS.detector, **structure))
    assert ("200 features of good parts are remembered" in shown.model) == remembered
    assert ("then remembered" in dict(shown.data)["validation"]) == remembered
    assert ("as if its part were not remembered" in dict(shown.data)["calibration"]) == remembered
    assert ending in shown.model


def test_the_operating_point_in_parts_of_a_thousand_and_of_a_day() -> None:
    shown = operating(OperatingPoint(0.3, 0.05, 24, 0.04, 0.7, 1.0, 24, 0), FACTS.metrics)
    # One image may be above: the bound is 1 - 0.05 ** (1 / 24) = 0.1173.
    assert [value for _, value in shown.rejects] == ["50", "40", "118", "50 (8.9 to 236)"]
    assert [value for _, value in shown.misses] == ["750 (409 to 929)", "250 (71 to 591)"]
    assert {row[0]: row[1:] for row in shown.days} == {
        "good parts rejected, if the budget is used up": ("50", "495"),
        "good parts rejected, expected at most": ("40", "396"),
        "good parts rejected, at most with 95% confidence": ("117", "1,162"),
        "good parts rejected, as measured": ("50 (8.8 to 234)", "495 (88 to 2,338)"),
        "defective parts found": ("7.5 (4.1 to 9.3)", "75 (41 to 93)"),
        "defective parts passed as good": ("2.5 (0.7 to 5.9)", "25 (7.1 to 59)"),
    }
    assert operating(POINT, {}).misses == ()


@pytest.mark.parametrize(
    ("parts", "rounded", "bound"),
    [
        (0.0, "0", "0"),
        (0.04, "0", "0.1"),
        (3.0, "3", "3"),
        (9.99, "10", "10"),
        (11.2, "11", "12"),
        (1e4, "10,000", "10,000"),
    ],
)
def test_numbers_of_parts(parts: float, rounded: str, bound: str) -> None:
    assert count(parts) == rounded
    assert at_most(parts) == bound
