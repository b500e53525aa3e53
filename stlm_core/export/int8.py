"""The exported file with the decoder and the memory in 8-bit integers (docs/decisions/0018).

Static quantisation in ONNX's QDQ form: weights int8 with a scale for every output channel, activations uint8 with the
ranges seen on calibration images. The frozen teacher stays in float32: its rounding errors alone make every feature
lie far from the remembered ones. So do the last convolution and the blur, whose single channel is the map itself.

Weights take 7 of the 8 bits (ONNX Runtime's ``reduce_range``): products of 8 bits overflow the 16-bit sums of x86
processors without VNNI, and a proof made on one processor would say nothing about another.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stlm_core.errors import StlmError, UserError, first_line
from stlm_core.models.feature_memory import CHANNELS
from stlm_core.runtime.model import INPUT

if TYPE_CHECKING:
    import onnx

PRECISION = "precision"
"""Metadata key that an int8 file has and a float file lacks."""

_DECODER = "detector.aggregation."
_OF_A_DECODER_ALONE = "detector.aggregation.lateral."
_MEMORY = "detector.streams.memory.vectors"


def quantised(content: bytes, images: Iterable[npt.NDArray[np.uint8]]) -> bytes:
    """The int8 version of an exported file; same inputs, outputs and metadata, with ``precision: int8`` added.

    Equal arguments give equal bytes. Images are taken one at a time and not kept.

    Args:
        content: what :func:`~stlm_core.export.onnx_graph.export_onnx` made of a detector.
        images: of the line, for the ranges: good ones, and such as show what a defect does; each uint8 (H, W, 3) RGB,
            at least one.

    Raises:
        UserError: the detector's aggregation is no decoder, or the file says that it is int8 already.
        StlmError: ONNX Runtime cannot quantise the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    model = onnx.load_model_from_string(content)
    if any(entry.key == PRECISION for entry in model.metadata_props):
        raise UserError("the model is int8 already; quantise the file that `stlm export` made")
    _fold_memory(model)
    chosen = _chosen(model.graph)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    with tempfile.TemporaryDirectory(prefix="stlm-int8-") as name, _quiet():
        source, target = Path(name) / "float.onnx", Path(name) / "int8.onnx"
        onnx.save_model(model, source)
        try:
            quantize_static(
                source,
                target,
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=sorted({node.op_type for node in chosen}),
                nodes_to_quantize=[node.name for node in chosen],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        except StlmError:  # from reading an image
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise StlmError(f"int8: ONNX Runtime cannot quantise the model: {first_line(error)}") from error
        result = onnx.load_model(target)
    del result.metadata_props[:]
    for key, value in sorted({**facts, PRECISION: "int8"}.items()):
        result.metadata_props.add(key=key, value=value)
    made: bytes = result.SerializeToString(deterministic=True)
    return made


class _Reader:
    """What ``quantize_static`` asks for calibration inputs (its ``CalibrationDataReader``)."""

    def __init__(self, images: Iterable[npt.NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: np.ascontiguousarray(image[None])}


def _chosen(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The decoder's convolutions but its last, the ReLUs behind them, and the product with the memory.

    Told by their weights: the exporter numbers its nodes anew with every version. A small memory's transpose it has
    computed itself, under a name of its own, so that only the length of the vectors tells it.
    """
    weights = {one.name: tuple(one.dims) for one in graph.initializer}
    if not any(name.startswith(_OF_A_DECODER_ALONE) for name in weights):
        raise UserError("int8 is for detectors with `model.aggregation: decoder`; this model has another structure")
    chosen, convolved = [], set()
    for node in graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        if node.op_type == "Conv" and weight.startswith(_DECODER) and weights[weight][0] > 1:
            chosen.append(node)
            convolved.add(node.output[0])
        elif (node.op_type == "MatMul" and weights.get(weight, ())[:1] == (CHANNELS,)) or (
            # Joined with its convolution, whose range then has no negative half to waste.
            node.op_type == "Relu" and node.input[0] in convolved
        ):
            chosen.append(node)
    return chosen


def _fold_memory(model: onnx.ModelProto) -> None:
    """Replace what is computed from the memory alone by its value.

    The exporter leaves the vectors' transpose and squares to ONNX Runtime. As weights of the product the vectors get a
    scale each, and the file does not hold them in float as well.
    """
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    constants = {one.name: one for one in graph.initializer}
    derived = {_MEMORY}
    folded = []
    for node in graph.node:
        if derived.intersection(node.input) and all(name in constants or name in derived for name in node.input):
            derived.update(node.output)
            folded.append(node)
    if not folded:
        return
    for node in folded:
        graph.node.remove(node)
    needed = {name for node in graph.node for name in node.input}
    wanted = [name for node in folded for name in node.output if name in needed]
    given = [constants[name] for name in sorted({name for node in folded for name in node.input} & set(constants))]
    outputs = [helper.make_value_info(name, helper.make_tensor_type_proto(1, None)) for name in wanted]
    small = helper.make_model(
        helper.make_graph(folded, "memory", [], outputs, given),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    for name, value in zip(wanted, ReferenceEvaluator(small).run(None, {}), strict=True):
        _rename(graph, name, f"{_MEMORY}.{name}")
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{_MEMORY}.{name}"))
    for one in given:
        if one.name not in needed:
            graph.initializer.remove(one)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice, which it gives on the root logger."""
    root = logging.getLogger()
    level, silent = root.level, logging.NullHandler()
    root.addHandler(silent)  # without any handler, `logging.warning` would install one that stays
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)
