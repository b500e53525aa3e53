"""The proof itself: it holds for equal models and names the figure for others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tiny_onnx import tiny_onnx
from torch import Tensor, nn

from stlm_core.errors import StlmError
from stlm_core.export.parity import ParityImage, ParityReport, passes, prove_parity
from stlm_core.runtime.model import DetectorSession


class Tiny(nn.Module):
    """What the tiny ONNX graph computes, with faults on demand."""

    def __init__(self, score: float = 0.0, anomaly_map: float = 0.0, flip: bool = False) -> None:
        super().__init__()
        self.score, self.anomaly_map, self.flip = score, anomaly_map, flip

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        anomaly_map = image.float().mean(3) / 255
        score = anomaly_map.amax((1, 2))
        return score + self.score, anomaly_map + self.anomaly_map, (score > 0.5) ^ self.flip


def _prove(
    model: nn.Module, session: DetectorSession, images: list[ParityImage], tolerance: float, **options: Any
) -> ParityReport:
    return prove_parity(model, session, images, tolerance=tolerance, score_tolerance=tolerance, **options)


def _images(*brightest: int) -> list[ParityImage]:
    images = []
    for index, value in enumerate(brightest):
        pixels = np.zeros((8, 12, 3), np.uint8)
        pixels[:] = value
        images.append(ParityImage(f"test/{index}.png", "test", f"{index:064d}", pixels))
    return images


@pytest.fixture
def session() -> DetectorSession:
    return DetectorSession(tiny_onnx(), threads=1)


def test_equal_models_pass_and_the_record_is_whole(session: DetectorSession) -> None:
    seen: list[int] = []
    images = _images(10, 200, 90)
    report = _prove(Tiny(), session, images, 1e-6, on_batch=seen.append)
    report.require()
    assert report.passed
    assert sum(seen) == passes(len(images)) == 2 * (3 + 2 + 5)
    assert [(case.batch, case.height, case.width, case.images) for case in report.cases] == [
        (1, 8, 12, 3),
        (2, 8, 12, 2),
        (5, 8, 12, 5),
        (1, 7, 9, 3),
        (2, 7, 9, 2),
        (5, 7, 9, 5),
    ]
    record = json.loads(json.dumps(report.to_dict()))
    assert record["onnx_sha256"] == session.sha256
    assert record["images"][1] == {"path": "test/1.png", "split": "test", "sha256": f"{1:064d}"}
    assert set(record["versions"]) == {"numpy", "onnx", "onnxruntime", "torch"}
    assert record["providers"] == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Tiny(score=1e-3), "scores of torch and ONNX Runtime differ by 0.001"),
        (Tiny(anomaly_map=-2e-3), "anomaly maps of torch and ONNX Runtime differ by 0.002"),
        (Tiny(flip=True), "2 of 2 decisions differ"),
    ],
)
def test_a_difference_fails_and_is_named(session: DetectorSession, model: nn.Module, sentence: str) -> None:
    report = _prove(model, session, _images(10, 200), 1e-4)
    assert not report.passed
    with pytest.raises(StlmError, match="parity proof failed") as caught:
        report.require()
    assert sentence in str(caught.value)
    assert "12 x 8 pixels" in str(caught.value)


def test_a_flip_within_the_tolerance_of_the_threshold_is_counted_and_excused(session: DetectorSession) -> None:
    """128 / 255 = 0.50196 is above the threshold; a torch model 0.003 lower decides otherwise."""

    class Lower(Tiny):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            score, anomaly_map, _ = super().forward(image)
            return score - 0.003, anomaly_map, score - 0.003 > 0.5

    report = _prove(Lower(), session, _images(128), 0.004)
    report.require()
    assert report.passed
    assert report.flipped_decisions == report.excused_decisions == 2 * (1 + 2 + 5)
    strict = _prove(Lower(), session, _images(128), 0.0015)
    assert not strict.passed
    assert strict.excused_decisions == 0


def test_images_of_different_sizes_are_proven_alone_at_their_own(session: DetectorSession) -> None:
    images = [*_images(10), ParityImage("wide.png", "test", "f" * 64, np.full((5, 31, 3), 99, np.uint8))]
    report = _prove(Tiny(), session, images, 1e-6)
    assert report.passed


def test_batches_of_large_photographs_are_made_smaller(
    session: DetectorSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stlm_core.export.parity._BATCH_PIXELS", 200)
    report = _prove(Tiny(), session, _images(10, 200), 1e-6)
    assert report.passed
    sizes = [(case.batch, case.height, case.width) for case in report.cases]
    assert sizes == [(1, 8, 12), (2, 8, 12), (5, 5, 7), (1, 7, 9), (2, 7, 9), (5, 3, 5)]


def test_output_that_is_no_number_fails(session: DetectorSession) -> None:
    with pytest.raises(StlmError, match="not a number"):
        _prove(Tiny(score=float("nan")), session, _images(10), 1e-4)


def test_no_images_is_a_mistake_of_the_caller(session: DetectorSession) -> None:
    with pytest.raises(ValueError, match="needs images"):
        _prove(Tiny(), session, [], 1e-4)


def test_the_torch_side_runs_without_gradients(session: DetectorSession) -> None:
    class Learning(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            score, anomaly_map, decision = super().forward(image)
            return score * self.weight, anomaly_map * self.weight, decision

    assert _prove(Learning(), session, _images(10), 1e-6).passed


def test_maps_and_scores_have_tolerances_of_their_own(session: DetectorSession) -> None:
    """A steep calibration magnifies rounding: scores may differ where maps may not."""
    shifted = prove_parity(Tiny(score=5e-4), session, _images(10), tolerance=1e-6, score_tolerance=1e-3)
    assert shifted.passed
    worse = prove_parity(Tiny(anomaly_map=5e-4), session, _images(10), tolerance=1e-4, score_tolerance=1e-3)
    assert not worse.passed
    with pytest.raises(StlmError, match=r"anomaly maps .* more than export\.tolerance 0\.0001"):
        worse.require()
