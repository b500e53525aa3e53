"""Time of one image: the exported file against PyTorch, and against a student-teacher peer.

    python benchmarks/inference_speed.py [--size 256] [--threads 2] [--detector FILE | --structure students]
                                         [--json FILE] [--quick]

Pixels in memory to score, map and decision. The peer is STFPM with ResNet-18 (two networks, three feature maps,
cosine distances), written here from its paper, in PyTorch and as ONNX. Weights do not change the time and are random
unless --detector names a trained one. Where the package `openvino` is installed (the project does not need it), the
same file runs in it too, with sizes left open and with sizes fixed. With a decoder the int8 version (`stlm quantize`)
runs beside the file; ranges from noise do for its time. The contenders take turns, so that other work on the machine
slows all alike; "ratio" is that of the medians to PyTorch.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from measure import surroundings, take_turns, write_json
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.export.int8 import quantised
from stlm_core.export.onnx_graph import export_onnx
from stlm_core.models.detector import Detector, DetectorFacts, ShippedDetector, count_parameters, load_detector

STRUCTURES: dict[str, dict[str, Any]] = {
    # A memory of 3,000 and what the images of the threshold add at most.
    "decoder": {"plain_stream": "teacher", "aggregation": "decoder", "denoising": False, "memory": 3750},
    "denoising": {"plain_stream": "teacher"},
    "students": {"plain_stream": "student"},
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (ResNet-18)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.conv2 = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNetFeatures(nn.Module):
    """The first three stages of ResNet-18 and their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        widths = (64, 64, 128, 256)
        self.stages = nn.ModuleList(
            nn.Sequential(BasicBlock(before, width, 1 if stage == 0 else 2), BasicBlock(width, width, 1))
            for stage, (before, width) in enumerate(itertools.pairwise(widths))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Stfpm(nn.Module):
    """Student-teacher feature pyramid matching: float (1, 3, S, S) to the map (1, S, S), product over three scales."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = ResNetFeatures(), ResNetFeatures()

    def forward(self, image: Tensor) -> Tensor:
        size = image.shape[-2:]
        product = image.new_ones(1)
        for taught, learned in zip(self.teacher(image), self.student(image), strict=True):
            distance = 0.5 * (F.normalize(taught) - F.normalize(learned)).square().sum(1, keepdim=True)
            product = product * F.interpolate(distance, size, mode="bilinear", align_corners=False)
        return product[:, 0]


def onnx_of(model: nn.Module, image: Tensor) -> bytes:
    """A plain export of fixed shape."""
    stream = io.BytesIO()
    program = torch.onnx.export(model, (image,), dynamo=True, input_names=["image"], opset_version=20, verbose=False)
    assert program is not None
    stream.write(program.model_proto.SerializeToString())
    return stream.getvalue()


def in_onnxruntime(content: bytes, image: np.ndarray, threads: int) -> Callable[[], object]:
    """A call of the file with ``threads`` threads inside one operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": image})


def in_openvino(content: bytes, image: np.ndarray, threads: int) -> dict[str, Callable[[], object]]:
    """Calls of the file in OpenVINO, in float32; none where the package is missing."""
    try:
        import openvino
    except ImportError:
        return {}
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    calls: dict[str, Callable[[], object]] = {}
    for name in ("open", "fixed"):
        model = core.read_model(content)
        if name == "fixed":
            model.reshape(list(image.shape))
        compiled = core.compile_model(model, "CPU", settings)
        calls[f"stlm, OpenVINO, {name} sizes"] = functools.partial(compiled, image)
    return calls


def in_int8(content: bytes, image: np.ndarray, threads: int) -> dict[str, Callable[[], object]]:
    """A call of the file's int8 version, its ranges from noise."""
    noise = np.random.default_rng(0).integers(0, 256, (4, *image.shape[1:]), dtype=np.uint8)
    return {"stlm, int8, ONNX Runtime": in_onnxruntime(quantised(content, noise), image, threads)}


def in_torch(model: nn.Module, image: Tensor) -> Callable[[], object]:
    """An eager call without gradients."""

    def work() -> object:
        with torch.inference_mode():
            return model(image)

    return work


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the image and of the network input, pixels")
    parser.add_argument("--rounds", type=int, default=30, help="turns of every contender")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--detector", type=Path, help="a detector.safetensors; default: random weights")
    parser.add_argument("--structure", choices=list(STRUCTURES), default="decoder", help="of random weights")
    parser.add_argument("--quick", action="store_true", help="three turns")
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    detector = (
        load_detector(options.detector)
        if options.detector
        else Detector(DetectorFacts(options.size, "conv3x3", "unit", **STRUCTURES[options.structure]))
    )
    shipped, peer = ShippedDetector(detector.eval(), 0.5, 1.0).eval(), Stfpm().eval()
    pixels = torch.randint(0, 256, (1, options.size, options.size, 3), dtype=torch.uint8)
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    content, peer_content = export_onnx(shipped, {}, opset=20), onnx_of(peer, scaled)
    contenders = {
        "stlm, PyTorch": in_torch(shipped, pixels),
        "stlm, ONNX Runtime": in_onnxruntime(content, pixels.numpy(), options.threads),
        **(in_int8(content, pixels.numpy(), options.threads) if detector.facts.aggregation == "decoder" else {}),
        **in_openvino(content, pixels.numpy(), options.threads),
        "STFPM ResNet-18, PyTorch": in_torch(peer, scaled),
        "STFPM ResNet-18, ONNX Runtime": in_onnxruntime(peer_content, scaled.numpy(), options.threads),
    }
    timings = take_turns(contenders, 3 if options.quick else options.rounds)
    facts = surroundings(options.threads, ("torch", "onnxruntime", "onnx", "openvino", "numpy"))
    print(
        f"{facts['cpu']}, {facts['cores']} cores, {options.threads} threads, {options.size} px, "
        f"load {facts['load_at_end']}"
    )
    print(f"{count_parameters(shipped) / 1e6:.2f} M parameters, file {len(content) / 1e6:.1f} MB")
    print(f"{'':32}{'median ms':>11}{'best ms':>9}{'cpu ms':>8}{'ratio':>7}")
    base = timings["stlm, PyTorch"].wall
    rows = []
    for name, timing in timings.items():
        rows.append(
            {
                "name": name,
                "wall_ms": timing.wall,
                "best_ms": timing.best,
                "cpu_ms": timing.cpu,
                "ratio": base / timing.wall,
            }
        )
        print(f"{name:32}{timing.wall:11.1f}{timing.best:9.1f}{timing.cpu:8.1f}{base / timing.wall:7.2f}")
    write_json(options.json, {**facts, "size": options.size, "file_mb": len(content) / 1e6}, rows)


if __name__ == "__main__":
    main()
