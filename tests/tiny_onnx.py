"""A detector that is small enough to reason about: the anomaly map is the brightness, the score its maximum."""

from __future__ import annotations

import onnx
import onnx.parser

METADATA = {
    "stlm_format": "1",
    "line": "tiny",
    "threshold": "0.5",
    "raw_threshold": "0.5",
    "image_size": "64",
    "dataset_sha256": "0" * 64,
    "code_version": "0.0.0+test",
}
GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
tiny (uint8[N,H,W,3] image) => (float[N] score, float[N,H,W] anomaly_map, bool[N] is_anomalous) {
    values = Cast<to: int = 1>(image)
    channel = Constant<value = int64[1] {3}>()
    plane = Constant<value = int64[2] {1, 2}>()
    white = Constant<value = float {255.0}>()
    half = Constant<value = float {0.5}>()
    grey = ReduceMean<keepdims = 0>(values, channel)
    anomaly_map = Div(grey, white)
    score = ReduceMax<keepdims = 0>(anomaly_map, plane)
    is_anomalous = Greater(score, half)
}
"""
SATURATED = """
<ir_version: 10, opset_import: ["": 20]>
tiny (uint8[N,H,W,3] image) => (float[N] score, float[N,H,W] anomaly_map, bool[N] is_anomalous) {
    sides = Shape<start = 1, end = 3>(image)
    images = Shape<start = 0, end = 1>(image)
    one = Constant<value = int64[1] {1}>()
    size = Concat<axis = 0>(images, one, sides)
    side = Constant<value = int64[2] {64, 64}>()
    few = Concat<axis = 0>(images, one, side)
    grid = ConstantOfShape<value = float[1] {1.0}>(few)
    large = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(grid, , , size)
    anomaly_map = Squeeze(large, one)
    plane = Constant<value = int64[2] {1, 2}>()
    half = Constant<value = float {0.5}>()
    score = ReduceMax<keepdims = 0>(anomaly_map, plane)
    is_anomalous = Greater(score, half)
}
"""
"""The map is a grid of ones, enlarged to the image as export does it."""


def tiny_onnx(graph: str = GRAPH, **metadata: str | None) -> bytes:
    """The file's bytes; keyword arguments change metadata, None removes an entry."""
    model = onnx.parser.parse_model(graph)
    onnx.checker.check_model(model)
    for key, value in {**METADATA, **metadata}.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
