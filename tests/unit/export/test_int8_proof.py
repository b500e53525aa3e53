"""When an int8 file is accepted, and what the comparison counts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_onnx import GRAPH, SATURATED, tiny_onnx

from stlm_core.errors import StlmError
from stlm_core.export.int8_proof import (
    MAX_AUPRO_LOSS,
    MAX_IMAGE_AUROC_LOSS,
    FileFigures,
    Int8Proof,
    ProofImage,
    prove_int8,
)
from stlm_core.export.latency import measure_in_turns
from stlm_core.runtime.model import DetectorSession

FIGURES = FileFigures("0" * 64, 8.0, image_auroc=0.98, pixel_auroc=0.97, aupro_30=0.9, false_rejects=1)


def _proof(tested: int = 250, flipped: int = 0, excused: int = 0, **after: float | None) -> Int8Proof:
    """Of ``tested`` images of the test split, and 20 that were held back."""
    paths = tuple(f"test/good/{index}.png" for index in range(flipped))
    return Int8Proof(FIGURES, replace(FIGURES, **after), tested + 20, 20, 5, paths, paths[:excused], 0.001, 0.02)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tested", "flipped", "excused", "accepted"),
    [
        (250, 0, 0, True),
        (250, 2, 0, True),
        (250, 3, 0, False),
        (250, 3, 1, True),
        (100, 1, 0, True),
        (99, 1, 0, False),
        (99, 1, 1, True),
        (99, 2, 1, False),
        (1, 1, 0, False),
    ],
)
def test_one_decision_may_differ_for_every_hundred_test_images(
    tested: int, flipped: int, excused: int, accepted: bool
) -> None:
    proof = _proof(tested, flipped, excused)
    assert (proof.refusal() is None) == accepted
    if not accepted:
        with pytest.raises(
            StlmError, match=rf"{flipped - excused} of {tested + 20} decisions differ \(test/good/"
        ) as caught:
            proof.require()
        assert "model.onnx of `stlm export` stays the one to use" in str(caught.value)


@given(loss=st.floats(-0.5, 0.5).filter(lambda loss: abs(loss - 0.003) > 1e-9))
def test_what_may_be_lost(loss: float) -> None:
    assert FIGURES.image_auroc is not None
    assert FIGURES.aupro_30 is not None
    assert (_proof(image_auroc=FIGURES.image_auroc - loss).refusal() is None) == (loss <= MAX_IMAGE_AUROC_LOSS)
    assert (_proof(aupro_30=FIGURES.aupro_30 - loss).refusal() is None) == (loss <= MAX_AUPRO_LOSS)


@given(pixel_auroc=st.none() | st.floats(0, 1), false_rejects=st.integers(0, 9))
def test_what_is_only_reported_refuses_nothing(pixel_auroc: float | None, false_rejects: int) -> None:
    assert _proof(pixel_auroc=pixel_auroc, false_rejects=false_rejects).refusal() is None


def test_the_sentence_names_the_figure() -> None:
    assert _proof(aupro_30=0.89).refusal() == "AUPRO@0.3 falls by 1.00 points, 0.30 are allowed"
    assert _proof(image_auroc=0.97).refusal() == "image AUROC falls by 1.00 points, 0.30 are allowed"
    many = _proof(50, flipped=5).refusal()
    assert many == ("5 of 70 decisions differ (test/good/0.png, test/good/1.png, test/good/2.png and 2 more), 0 may")


def test_what_cannot_be_measured() -> None:
    nowhere = replace(FIGURES, aupro_30=None, pixel_auroc=None)
    assert replace(_proof(), float32=nowhere, int8=nowhere).refusal() is None
    nothing = replace(nowhere, image_auroc=None)
    assert "lacks good or defective images" in str(replace(_proof(), float32=nothing, int8=nothing).refusal())


def _flat(path: str, label: int, level: int, *, held_back: bool = False, mask: bool = False) -> ProofImage:
    marked = np.zeros((6, 9), np.bool_)
    marked[2:4, 3:6] = True
    pixels = np.full((6, 9, 3), level, np.uint8)
    pixels[marked if mask else np.zeros_like(marked)] = 255
    return ProofImage(path, label, held_back, pixels, marked if mask else None)


@pytest.fixture
def darker() -> DetectorSession:
    """Says three quarters of what the float file says."""
    return DetectorSession(tiny_onnx(GRAPH.replace("{255.0}", "{340.0}")), threads=1)


def test_everything_is_counted_where_it_belongs(darker: DetectorSession) -> None:
    images = [
        _flat("a", 0, 51, held_back=True),
        _flat("b", 0, 204, held_back=True),  # rejected by both
        _flat("c", 0, 140, held_back=True),  # rejected in float only
        _flat("d", 0, 0),
        _flat("e", 1, 153),  # found in float only; no mask
        _flat("f", 1, 51, mask=True),
    ]
    done: list[int] = []
    proof = prove_int8(
        DetectorSession(tiny_onnx(), threads=1),
        darker,
        iter(images),
        score_tolerance=1e-3,
        on_image=lambda: done.append(1),
    )
    assert (proof.images, proof.held_back, proof.masks, len(done)) == (6, 3, 1, 6)
    assert proof.flipped == ("c", "e")
    assert proof.excused == ()
    assert (proof.float32.false_rejects, proof.int8.false_rejects) == (2, 1)
    # b's 0.8 in float is 0.6 in int8: the largest difference but f's, whose white spot is 1.0 and 0.75.
    assert proof.max_abs_score == pytest.approx(0.25, abs=1e-6)
    levels = np.array([51, 204, 140, 0, 153, 255]) / 255
    assert proof.mean_abs_score == pytest.approx(np.mean(levels - levels * 0.75), abs=1e-6)
    assert proof.float32.image_auroc == proof.int8.image_auroc == 1.0
    assert proof.float32.pixel_auroc == proof.int8.pixel_auroc == 1.0
    assert proof.float32.aupro_30 == pytest.approx(1.0)
    assert proof.float32.onnx_sha256 != proof.int8.onnx_sha256


def test_the_held_back_image_that_set_the_threshold_is_excused_and_a_test_image_is_not(darker: DetectorSession) -> None:
    edge = 128  # 0.502: above 0.5 by less than the tolerance
    images = [_flat("setter", 0, edge, held_back=True), _flat("test", 0, edge), _flat("other", 1, 255)]
    session = DetectorSession(tiny_onnx(), threads=1)
    proof = prove_int8(session, darker, images, score_tolerance=0.01)
    assert proof.flipped == ("setter", "test")
    assert proof.excused == ("setter",)
    assert prove_int8(session, darker, images, score_tolerance=1e-6).excused == ()


def test_a_saturated_map_is_a_result_and_no_error() -> None:
    session = DetectorSession(tiny_onnx(SATURATED), threads=1)
    images = [
        ProofImage(path, label, False, np.zeros((900, 900, 3), np.uint8), None) for label, path in enumerate("ab")
    ]
    assert prove_int8(session, session, images, score_tolerance=1e-3).float32.image_auroc == 0.5


def test_the_record_is_json_with_limits_and_both_times(darker: DetectorSession) -> None:
    session, image = DetectorSession(tiny_onnx(), threads=1), _flat("d", 0, 0)
    proof = prove_int8(session, darker, [image, _flat("f", 1, 51, mask=True)], score_tolerance=1e-3)
    turns: list[int] = []
    first, second = measure_in_turns([session, darker], image.pixels, 3, threads=1, on_run=lambda: turns.append(1))
    record = json.loads(json.dumps(proof.to_dict((first, second), 64), allow_nan=False))
    assert record["passed"] is True
    assert record["limits"] == {"aupro_30_loss": 0.003, "image_auroc_loss": 0.003, "flipped": 0}
    assert record["latency"]["ratio"] == round(second.p50_ms / first.p50_ms, 3)
    assert record["latency"]["int8"]["runs"] == len(turns) == 3
    assert record["calibration_images"] == 64
