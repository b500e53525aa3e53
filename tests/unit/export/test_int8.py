"""The int8 version of an exported file: which layers it is made of, and what it must still say."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from tiny_onnx import METADATA, tiny_onnx

from stlm_core.errors import StlmError, UserError
from stlm_core.export.int8 import quantised
from stlm_core.export.onnx_graph import export_onnx
from stlm_core.models.detector import Detector, DetectorFacts, ShippedDetector
from stlm_core.models.feature_memory import CHANNELS
from stlm_core.runtime.model import DetectorSession

SIZE, MEMORY = 64, 50
STRUCTURE = {"plain_stream": "teacher", "aggregation": "decoder", "denoising": False, "memory": MEMORY}


def _images(count: int, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """Smooth pictures: noise at every pixel looks alike to a network."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [one.repeat(9, 0).repeat(10, 1) for one in coarse]


def _export(opset: int = 20, **structure: object) -> bytes:
    torch.manual_seed(0)
    detector = Detector(DetectorFacts(SIZE, "conv3x3", "unit", **{**STRUCTURE, **structure}))  # type: ignore[arg-type]
    if structure.get("memory", MEMORY):
        torch.nn.init.normal_(detector.streams.memory.vectors)  # type: ignore[union-attr,arg-type]
    return export_onnx(ShippedDetector(detector.eval(), 0.2, 1.0).eval(), METADATA, opset=opset)


@pytest.fixture(scope="module")
def content() -> bytes:
    return _export()


@pytest.fixture(scope="module")
def int8(content: bytes) -> bytes:
    return quantised(content, _images(6))


def _computed(graph: onnx.GraphProto, name: str) -> tuple[str, str]:
    """The stored weight behind an input, and the operation that it comes out of ("" for the weight itself)."""
    for node in graph.node:
        if name in node.output:
            return node.input[0], node.op_type
    return name, ""


def test_the_decoder_and_the_memory_are_int8_and_the_rest_is_float(int8: bytes) -> None:
    graph = onnx.load_model_from_string(int8).graph
    weights = {one.name: one for one in graph.initializer}
    seen = {"": 0, "DequantizeLinear": 0}
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul"):
            continue
        weight, operation = _computed(graph, node.input[1])
        in_decoder = weight.startswith("detector.aggregation.") and "head.3" not in weight
        expected = in_decoder or node.op_type == "MatMul"
        assert (operation == "DequantizeLinear") == expected, weight
        kind = onnx.TensorProto.INT8 if expected else onnx.TensorProto.FLOAT
        assert weights[weight].data_type == kind, weight
        seen[operation] += 1
    assert seen["DequantizeLinear"] == 18 + 1
    assert seen[""] > 30  # the teacher, the last convolution, the blur


@pytest.mark.parametrize("folded", [True, False])
def test_every_vector_of_the_memory_has_a_scale_and_none_is_kept_in_float(content: bytes, folded: bool) -> None:
    """The exporter computes a small memory's transpose and leaves a large one's to the reader of the file."""
    model = onnx.load_model_from_string(content)
    if not folded:
        _as_of_a_large_memory(model.graph)
    before = DetectorSession(content, threads=1).predict(_images(1)[0][None])
    int8 = quantised(model.SerializeToString(), _images(6))
    weights = {one.name: one for one in onnx.load_model_from_string(int8).graph.initializer}
    vectors = [one for one in weights.values() if list(one.dims) == [CHANNELS, MEMORY]]
    assert [one.data_type for one in vectors] == [onnx.TensorProto.INT8]
    assert list(weights[vectors[0].name.replace("_quantized", "_scale")].dims) == [MEMORY]
    assert not any(list(one.dims) == [MEMORY, CHANNELS] for one in weights.values())
    assert len(int8) < 0.6 * len(content)
    after = DetectorSession(int8, threads=1).predict(_images(1)[0][None])
    assert np.abs(before.scores - after.scores).max() < 0.02


def _as_of_a_large_memory(graph: onnx.GraphProto) -> None:
    """Undo what the exporter computed: the vectors as they are in the detector, transposed by a node."""
    (transposed,) = [one for one in graph.initializer if list(one.dims) == [CHANNELS, MEMORY]]
    vectors = onnx.numpy_helper.to_array(transposed).T.copy()
    graph.initializer.append(onnx.numpy_helper.from_array(vectors, "detector.streams.memory.vectors"))
    graph.node.insert(
        0, onnx.helper.make_node("Transpose", ["detector.streams.memory.vectors"], [transposed.name], perm=[1, 0])
    )
    graph.initializer.remove(transposed)


def test_weights_take_seven_bits(int8: bytes) -> None:
    """Eight overflow where a processor adds in 16 bits, and the proof would hold on the machine that made it only."""
    for one in onnx.load_model_from_string(int8).graph.initializer:
        if one.data_type == onnx.TensorProto.INT8 and one.dims and "zero_point" not in one.name:
            assert np.abs(onnx.numpy_helper.to_array(one).astype(int)).max() <= 64


@pytest.mark.parametrize(("count", "size"), [(1, (72, 80)), (3, (72, 80)), (2, (33, 61)), (1, (200, 130)), (1, (1, 1))])
def test_any_size_and_batch_say_nearly_the_same(content: bytes, int8: bytes, count: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(count)
    batch = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    batch[:, : size[0] // 2] = 128
    before, after = (DetectorSession(one, threads=1).predict(batch) for one in (content, int8))
    assert after.anomaly_maps.shape == (count, *size)
    assert np.abs(before.scores - after.scores).max() < 0.02
    assert np.abs(before.anomaly_maps - after.anomaly_maps).mean() < 0.02
    one_by_one = [DetectorSession(int8, threads=1).predict(image[None]).scores[0] for image in batch]
    np.testing.assert_allclose(after.scores, one_by_one, atol=1e-5)


def test_the_metadata_is_kept_and_says_int8(int8: bytes) -> None:
    assert DetectorSession(int8).metadata == {**METADATA, "precision": "int8"}
    model = onnx.load_model_from_string(int8)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == sorted({*METADATA, "precision"})


def test_equal_inputs_give_equal_bytes_and_the_images_come_one_by_one(content: bytes, int8: bytes) -> None:
    alive: list[int] = []

    def stream() -> Iterator[npt.NDArray[np.uint8]]:
        for image in _images(6):
            alive.append(1)
            yield image

    assert quantised(content, stream()) == int8
    assert len(alive) == 6


def test_nothing_is_printed_and_logging_is_left_alone(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    quantised(content, _images(1))
    assert (root.level, list(root.handlers)) == before
    assert capfd.readouterr() == ("", "")


def test_without_a_memory_and_with_the_oldest_operator_set_the_decoder_is_int8() -> None:
    old = quantised(_export(opset=18, memory=0), _images(2))
    assert DetectorSession(old).predict(_images(1)[0][None]).anomaly_maps.shape == (1, 72, 80)
    kinds = {one.data_type for one in onnx.load_model_from_string(old).graph.initializer if "aggregation" in one.name}
    assert onnx.TensorProto.INT8 in kinds


def test_another_structure_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"int8 is for detectors with `model\.aggregation: decoder`"):
        quantised(tiny_onnx(), _images(1))
    # The paper's aggregation has weights of that name, too, but no lateral ones.
    with pytest.raises(UserError, match="another structure"):
        quantised(content.replace(b"aggregation.lateral.", b"aggregation.encoder."), _images(1))


def test_an_int8_file_is_not_quantised_again(int8: bytes) -> None:
    with pytest.raises(UserError, match="int8 already"):
        quantised(int8, _images(1))


def test_without_an_image_or_with_one_that_cannot_be_read_it_is_one_sentence(content: bytes) -> None:
    with pytest.raises(StlmError, match="cannot quantise the model") as caught:
        quantised(content, [])
    assert "\n" not in str(caught.value)

    def broken() -> Iterator[npt.NDArray[np.uint8]]:
        yield _images(1)[0]
        raise UserError("a.png: has changed")

    with pytest.raises(UserError, match=r"^a\.png: has changed$"):
        quantised(content, broken())
