"""A detector as one ONNX file: weights inside, camera pixels in, score, map and decision out.

The ``torch.export`` based exporter is the one in use: it keeps N, H and W dynamic through the antialiased resize,
which the older TorchScript exporter cannot express. Equal inputs give equal bytes.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

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
        with _quiet(), torch.no_grad():
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
