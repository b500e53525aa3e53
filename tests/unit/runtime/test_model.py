"""Opening an exported detector: ours is accepted, anything else refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import GRAPH, SATURATED, tiny_onnx

from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes
from stlm_core.runtime.model import DetectorSession


def test_a_batch_gets_score_map_and_decision(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(tiny_onnx())
    images = np.zeros((2, 5, 7, 3), np.uint8)
    images[1, 4, 6] = 255
    session = DetectorSession(file, threads=1)
    prediction = session.predict(images)
    assert prediction.scores.tolist() == [0.0, 1.0]
    assert prediction.is_anomalous.tolist() == [False, True]
    assert prediction.anomaly_maps.shape == (2, 5, 7)
    assert prediction.anomaly_maps[1, 4, 6] == 1.0
    assert prediction.anomaly_maps[1].sum() == 1.0
    assert (session.line, session.threshold, session.raw_threshold) == ("tiny", 0.5, 0.5)
    assert session.sha256 == sha256_bytes(file.read_bytes())
    assert session.providers == ("CPUExecutionProvider",)


def test_strided_pixels_are_read_correctly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 4, 3), dtype=np.uint8)
    turned = image.transpose(0, 2, 1, 3)
    maps = DetectorSession(tiny_onnx()).predict(turned).anomaly_maps
    np.testing.assert_allclose(maps[0], image[0].mean(2).T / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (GRAPH.replace("image", "picture"), "its inputs are picture"),
        (GRAPH.replace("uint8[N,H,W,3]", "uint8[N,H,W,1]"), "not uint8 N x H x W x 3"),
        (GRAPH.replace("uint8[N,H,W,3]", "float[N,H,W,3]"), "not uint8 N x H x W x 3"),
        (GRAPH.replace("score", "rating"), "its outputs are rating"),
    ],
)
def test_another_graph_is_refused(graph: str, sentence: str) -> None:
    with pytest.raises(UserError, match="not a detector made by `stlm export`") as caught:
        DetectorSession(tiny_onnx(graph), name="other.onnx")
    assert sentence in str(caught.value)
    assert "other.onnx" in str(caught.value)


def test_missing_metadata_is_named() -> None:
    with pytest.raises(UserError, match="metadata lacks line, dataset_sha256"):
        DetectorSession(tiny_onnx(line=None, dataset_sha256=None))


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(UserError, match="format 2"):
        DetectorSession(tiny_onnx(stlm_format="2"))


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="`threshold` is not a number: 'high'"):
        DetectorSession(tiny_onnx(threshold="high"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a model", tiny_onnx()[:200]])
def test_bytes_that_are_no_model_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        DetectorSession(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.onnx: no such file"):
        DetectorSession(tmp_path / "gone.onnx")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((5, 5, 3), np.uint8),
        np.zeros((1, 5, 5, 4), np.uint8),
        np.zeros((1, 5, 5, 3), np.float32),
        np.zeros((0, 5, 5, 3), np.uint8),
    ],
)
def test_pixels_of_another_kind_are_refused(images: np.ndarray) -> None:
    with pytest.raises(UserError, match="needs uint8 images"):
        DetectorSession(tiny_onnx()).predict(images)


def test_output_that_is_no_number_is_an_error_of_ours() -> None:
    broken = GRAPH.replace("{255.0}", "{0.0}")  # 0 / 0 on black pixels
    with pytest.raises(StlmError, match="not a number"):
        DetectorSession(tiny_onnx(broken)).predict(np.zeros((1, 2, 2, 3), np.uint8))


@pytest.mark.parametrize("size", [(900, 900), (800, 800), (1080, 1920)])
def test_a_map_of_ones_is_one_at_every_size(size: tuple[int, int]) -> None:
    found = DetectorSession(tiny_onnx(SATURATED), threads=1).predict(np.zeros((1, *size, 3), np.uint8))
    assert (found.anomaly_maps.max(), found.scores[0]) == (1.0, 1.0)
    assert found.anomaly_maps.min() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(-2e-6, False), (-5e-7, True), (1.0, True), (1 + 5e-7, True), (1 + 2e-6, False), (1.1, False)],
)
def test_only_rounding_may_leave_the_unit_interval(value: float, accepted: bool) -> None:
    session = DetectorSession(tiny_onnx(GRAPH.replace("{255.0}", f"{{{255 / value:.9g}}}")), threads=1)
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    if accepted:
        found = session.predict(white)
        assert 0 <= found.anomaly_maps.min() <= found.anomaly_maps.max() <= 1
        assert 0 <= found.scores[0] <= 1
    else:
        with pytest.raises(StlmError, match="an output is not between 0 and 1"):
            session.predict(white)


def test_negative_threads_are_refused() -> None:
    with pytest.raises(UserError, match="threads: -1"):
        DetectorSession(tiny_onnx(), threads=-1)
