"""Export of a small module with the operations that are hard to export, and what the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.errors import StlmError
from stlm_core.export.onnx_graph import _slices_asked_first, export_onnx
from stlm_core.export.parity import ParityImage, prove_parity
from stlm_core.runtime.model import DetectorSession

METADATA = {
    "stlm_format": "1",
    "line": "small",
    "threshold": "0.5",
    "raw_threshold": "0.4",
    "image_size": "32",
    "dataset_sha256": "0" * 64,
    "code_version": "0.0.0+test",
}


class Small(nn.Module):
    """Antialiased resize, convolution, top-k mean, calibration, and upsampling to the image's own size."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 1, 3, stride=4, padding=1)
        self.bias = bias

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.interpolate(image.permute(0, 3, 1, 2).float(), (32, 32), mode="bilinear", antialias=True) / 255
        grid = self.conv(x).sigmoid()
        raw = F.interpolate(grid, (32, 32), mode="bilinear").flatten(1).topk(20).values.mean(1)
        score = ((torch.log(raw / (1 - raw)) + 0.4 + self.bias) * 1.3).sigmoid()
        return score, F.interpolate(grid, (image.shape[1], image.shape[2]), mode="bilinear")[:, 0], score > 0.5


class Fixed(Small):
    """Chunks along the batch, which ties the graph to the batch it was traced with."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        score, anomaly_map, decision = super().forward(image)
        both = torch.cat([anomaly_map, anomaly_map]).chunk(2)
        return score, both[0] + both[1], decision


@pytest.fixture(scope="module")
def small() -> Small:
    return Small().eval()


@pytest.fixture(scope="module")
def content(small: Small) -> bytes:
    return export_onnx(small, METADATA, opset=20)


def _image(name: str, height: int, width: int) -> ParityImage:
    seed = sum(name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ParityImage(name, "test", "0" * 64, pixels)


@pytest.mark.parametrize("size", [(32, 32), (97, 61), (200, 300), (9, 40), (1, 1)])
def test_any_size_and_batch_say_the_same_as_torch(small: Small, content: bytes, size: tuple[int, int]) -> None:
    session = DetectorSession(content, threads=1)
    report = prove_parity(
        small, session, [_image("a", *size), _image("b", *size)], tolerance=1e-5, score_tolerance=1e-5
    )
    report.require()
    assert report.passed
    assert {case.batch for case in report.cases} == {1, 2, 5}


def test_equal_inputs_give_equal_bytes(small: Small, content: bytes) -> None:
    assert export_onnx(small, METADATA, opset=20) == content


def _two_slices(second: str) -> Any:
    """Slices 0 to 4 of x, of eight columns, and ``second`` to 8 of x or of y."""
    tensor, start = second.split()
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[2, 8] x, float[2, 8] y) => (float a, float b) {{
            zero = Constant<value_ints = [0]>()
            four = Constant<value_ints = [4]>()
            six = Constant<value_ints = [6]>()
            eight = Constant<value_ints = [8]>()
            last = Constant<value_ints = [1]>()
            right = Slice ({tensor}, {start}, eight, last)
            left = Slice (x, zero, four, last)
            a = ReduceSum (left)
            b = ReduceSum (right)
        }}"""
    )


@pytest.mark.parametrize(("second", "split"), [("x four", True), ("x six", False), ("y four", False)])
def test_the_optimiser_finds_the_same_with_the_shorter_search(second: str, split: bool) -> None:
    from onnxscript import optimizer

    asked = onnx.shape_inference.infer_shapes(_two_slices(second))
    plain = optimizer.optimize(asked)
    with _slices_asked_first():
        quick = optimizer.optimize(asked)
    assert quick == plain == optimizer.optimize(asked)
    assert ("Split" in {node.op_type for node in quick.graph.node}) is split


def test_weights_are_inside_and_nothing_names_this_machine(content: bytes, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    assert [entry.key for entry in model.metadata_props] == sorted(METADATA)
    assert __file__.encode() not in content
    assert b"site-packages" not in content
    assert b"stack_trace" not in content


def test_the_contract_of_the_file(content: bytes) -> None:
    graph = onnx.load_model_from_string(content).graph
    (image,) = graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["N", "H", "W", 3]
    assert [value.name for value in graph.output] == ["score", "anomaly_map", "is_anomalous"]


def test_the_oldest_operator_set_works(small: Small) -> None:
    session = DetectorSession(export_onnx(small, METADATA, opset=18), threads=1)
    prove_parity(small, session, [_image("a", 50, 40)], tolerance=1e-5, score_tolerance=1e-5).require()


def test_a_graph_tied_to_one_batch_is_refused() -> None:
    """The exporter keeps silent about it; the file would refuse every other batch in the factory."""
    with pytest.raises(StlmError, match="fixed the shape of `image`"):
        export_onnx(Fixed().eval(), METADATA, opset=20)


def test_what_cannot_be_exported_is_one_sentence() -> None:
    class Untraceable(Small):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            score, anomaly_map, decision = super().forward(image)
            return score * float(np.asarray(score.tolist()).sum()), anomaly_map, decision

    with pytest.raises(StlmError, match="ONNX export failed") as caught:
        export_onnx(Untraceable().eval(), METADATA, opset=20)
    assert "\n" not in str(caught.value)


def test_a_model_in_training_mode_is_a_mistake_of_the_caller(small: Small) -> None:
    with pytest.raises(ValueError, match="eval mode"):
        export_onnx(Small(), METADATA, opset=20)
