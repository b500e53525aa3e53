"""A detector as one ONNX file: weights inside, camera pixels in, score, map and decision out.

The ``torch.export`` based exporter is the one in use: it keeps N, H and W dynamic through the antialiased resize,
which the older TorchScript exporter cannot express. Equal inputs give equal bytes.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stlm_core.errors import StlmError, first_line
from stlm_core.runtime.model import INPUT, OUTPUTS

if TYPE_CHECKING:
    import onnx

_DYNAMIC = ("N", "H", "W")
_TRACED_SHAPE = (2, 97, 83, 3)  # three different sizes, none of them 1: each stays a symbol of its own


def export_onnx(model: nn.Module, metadata: Mapping[str, str], *, opset: int) -> bytes:
    """Serialise ``model`` as ONNX with dynamic N, H and W.

    Args:
        model: in eval mode on the CPU; uint8 (N, H, W, 3) to score (N,), map (N, H, W) and decision (N,).
        metadata: key-value pairs stored in the file.
        opset: version of ONNX's operator set.

    Raises:
        StlmError: the graph cannot be exported, or it came out with a fixed N, H or W.
    """
    if model.training:
        raise ValueError("the model must be in eval mode")
    image = torch.zeros(_TRACED_SHAPE, dtype=torch.uint8)
    dims = {index: torch.export.Dim(name, min=1) for index, name in enumerate(_DYNAMIC)}
    try:
        with _quiet(), _slices_asked_first(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (image,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=opset,
                dynamic_shapes=({**dims},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever fails in types of its own
        raise StlmError(f"ONNX export failed: {first_line(error)}") from error
    if program is None:
        raise StlmError("ONNX export failed: the exporter returned nothing")
    proto = program.model_proto
    _check_dynamic(proto)
    _strip_traces(proto)
    del proto.metadata_props[:]
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _check_dynamic(proto: onnx.ModelProto) -> None:
    """The exporter falls back to the traced sizes in silence when an operation does not take a symbolic one."""
    wanted = {INPUT: [*_DYNAMIC, 3], "score": ["N"], "anomaly_map": list(_DYNAMIC), "is_anomalous": ["N"]}
    for value in (*proto.graph.input, *proto.graph.output):
        shape = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if shape != wanted.get(value.name):
            raise StlmError(f"ONNX export fixed the shape of `{value.name}` to {shape} instead of {wanted[value.name]}")


def _strip_traces(proto: onnx.ModelProto) -> None:
    """Drop what names this machine's source files and nothing at run time reads."""
    proto.doc_string = ""
    proto.graph.doc_string = ""
    del proto.graph.metadata_props[:]
    for item in (*proto.graph.node, *proto.graph.initializer, *proto.graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for function in proto.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on torchvision and on its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _slices_asked_first() -> Iterator[None]:
    """The exporter's optimiser without the search that takes more than half of its time, and finds the same.

    Its rule that makes one Split of two Slices of a tensor lists the whole graph for every node, and tries every pair
    of Slices; a detector has thousands of nodes and hundreds of Slices. Here the rule is asked only about a Slice of a
    tensor that has another one.
    """
    from onnxscript import rewriter

    found = [rule for rule in getattr(rewriter, "_DEFAULT_REWRITE_RULES", ()) if rule.name == "SlicesSplit"]
    for rule in found:
        rule.try_rewrite = partial(_try_slices, rule.try_rewrite)
    try:
        yield
    finally:
        for rule in found:
            del rule.try_rewrite  # the class's own shows again


def _try_slices(try_rewrite: Callable[..., Any], model: Any, graph: Any, node: Any, **options: Any) -> Any:
    if node.op_type != "Slice" or not any(
        other.op_type == "Slice" and other is not node for other, _ in node.inputs[0].uses()
    ):
        return None
    return try_rewrite(model, graph, node, **options)
