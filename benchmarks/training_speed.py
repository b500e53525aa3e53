"""Cost of a distillation step, part by part, and what the paper's grid would ask of a GPU (profile `fast` distills
nothing any more; its training is in `decoder_training_speed.py`).

    python benchmarks/training_speed.py [--threads 2] [--rounds 7] [--compile] [--json FILE]

Profile `denoising`: the teacher is the plain stream, 256 px, a batch of 8, bfloat16 where the processor has it. "data
side" is what the training loop does before the network: choosing, reading images, masks and cached features. Settings
that might help are each a step of their own; the ratio is that of the medians to the plain step. The contenders take
turns. The second table counts operations and bytes without computing anything: forward and backward of both
students and FA at 1024 px (64 x 64 grid), and what one H100 could do at best (989 dense TFLOP/s in bfloat16,
3.35 TB/s).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cache_speed import make_bank
from measure import Timing, surroundings, take_turns, write_json
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from stlm_core.cache.features import CleanPyramidRows
from stlm_core.cache.store import FeatureCache, fill, write_index
from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.teacher_stream import TeacherStreams, pack_pyramid
from stlm_core.models.tiny_vit import TinyViT
from stlm_core.models.two_stream import StreamFeatures
from stlm_core.synthesis.bank import Bank
from stlm_core.teachers.base import Teacher
from stlm_core.teachers.efficientnet import EfficientNetMaps
from stlm_core.teachers.registry import teacher_facts
from stlm_core.teachers.sam_tiny import TinySam
from stlm_core.training.losses import distillation_loss
from stlm_core.training.optimisation import autocast_dtype, build_optimiser, trained_parameters
from stlm_core.training.pairs import Batch, TrainingPairs
from stlm_core.training_settings import OptimiserConfig

SIZE, GRID, BATCH, IMAGES = 256, 16, 8, 16
CPU = torch.device("cpu")
H100_FLOPS, H100_BYTES = 989e12, 3.35e12
TARGET = 120  # training images a second


def lite0(detector: Detector) -> Teacher:
    """The detector's plain stream as a teacher."""
    return Teacher(teacher_facts("efficientnet_lite0"), EfficientNetMaps(detector.streams.plain), "0" * 64, SIZE)  # type: ignore[arg-type]


def make_pairs(bank: Bank, teacher: Teacher, folder: Path) -> TrainingPairs:
    """The bank's training pairs over a cache of the teacher's clean pyramids."""
    rows = CleanPyramidRows(bank, teacher, GRID, BATCH, CPU, None)
    keys = rows.keys
    fill(folder, keys, rows)
    write_index(folder, keys)
    return TrainingPairs(bank, FeatureCache.open(folder), "train", 0.5, clean_only=True)


def step(
    detector: Detector,
    batch: Callable[[], Batch],
    dtype: torch.dtype | None,
    *,
    fused: bool = False,
    channels_last: bool = False,
    teacher: Teacher | None = None,
) -> Callable[[], object]:
    """One step of distillation; with ``teacher`` the targets are computed instead of read."""
    config = OptimiserConfig(lr=1e-9)  # the time does not depend on it, and the weights stay what they are
    trained = trained_parameters(detector.streams)
    optimiser = torch.optim.AdamW(trained, lr=1e-9, fused=True) if fused else build_optimiser(config, [(trained, 1e-9)])

    def work() -> object:
        detector.train()
        drawn = batch()
        clean = drawn.clean
        if teacher is not None:
            clean = pack_pyramid(teacher.pyramid(drawn.images))[:, None]
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            images = detector.preprocess(drawn.images)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            loss = distillation_loss(detector.streams.students(images), detector.streams.targets(clean, clean))
        descend(loss, optimiser, trained)
        return loss

    return work


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, trained: list[nn.Parameter]) -> None:
    """What follows a loss in a training step."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()


def checkpointed(detector: Detector) -> Detector:
    """A copy whose encoder keeps only what goes into its blocks and computes their inside again for the backward.

    Batch normalisation then sees every batch twice, so that its averages move twice; the time is not touched by that.
    """
    twin = copy.deepcopy(detector)
    assert isinstance(twin.streams, TeacherStreams)
    for stage in twin.streams.denoising.encoder.layers:
        for block in stage.blocks:  # type: ignore[union-attr]
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    return twin


def compiled(detector: Detector) -> Detector:
    """A copy whose student is compiled by torch.compile (inductor), which happens in the turn that does not count."""
    twin = copy.deepcopy(detector)
    assert isinstance(twin.streams, TeacherStreams)
    twin.streams.denoising.compile()
    return twin


def sam_in_the_loop() -> Callable[[], object]:
    """LiteMedSAM's architecture at 128 px over both views of every pair of a batch, without the step."""
    facts = teacher_facts("lite_medsam")
    teacher = Teacher(facts, TinySam(TinyViT("conv1x1"), PromptFreeDecoder()), "", 128)
    images = torch.randint(0, 256, (2 * BATCH, SIZE, SIZE, 3), dtype=torch.uint8)
    return lambda: teacher(images)


def features_of(detector: Detector, image: Tensor) -> StreamFeatures:
    """Both streams' features; on the device ``meta`` autocast has no answer, which the detector asks of a teacher."""
    streams = detector.streams
    if isinstance(streams, TeacherStreams):
        return StreamFeatures(streams.standardise(streams.plain(image)), streams.students(image).denoising)
    return streams(image)


def count(plain_stream: str, size: int) -> dict[str, float]:
    """Operations of forward and backward of one image, and the bytes that wait for the backward in bfloat16."""
    with torch.device("meta"):  # nothing is computed
        detector = Detector(DetectorFacts(size, "conv3x3", "unit", plain_stream=plain_stream)).train()  # type: ignore[arg-type]
        image = torch.empty(1, 3, size, size)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor)] = tensor.numel() * 2
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        detector.aggregation(features_of(detector, image)).sum().backward()
    return {"gflop": counter.get_total_flops() / 1e9, "mib": sum(kept.values()) / 2**20}


def read_options(description: str | None) -> argparse.Namespace:
    """``rounds``, ``threads``, ``compile`` and ``json`` of the command line; sets the threads and the seed."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of every contender")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile too: needs a C++ compiler, minutes")
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def told(timings: Mapping[str, Timing], step_name: str, facts: Mapping[str, Any]) -> list[dict[str, object]]:
    """Print where it was measured and a line a contender, its ratio that to the step; the same as rows for the JSON."""
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, load {facts['load_at_end']}")
    print(f"{'':38}{'median ms':>11}{'best ms':>9}{'cpu ms':>9}{'ratio':>8}")
    rows: list[dict[str, object]] = []
    for name, timing in timings.items():
        ratio = timing.wall / timings[step_name].wall
        rows.append(
            {"name": name, "wall_ms": timing.wall, "cpu_ms": timing.cpu, "best_ms": timing.best, "ratio": ratio}
        )
        print(f"{name:38}{timing.wall:11.1f}{timing.best:9.1f}{timing.cpu:9.1f}{ratio:8.3f}")
    return rows


def main() -> None:
    """Measure, print the tables, write the JSON."""
    options = read_options(__doc__)
    dtype = autocast_dtype("auto", CPU)
    detector = Detector(DetectorFacts(SIZE, "conv3x3", "unit", plain_stream="teacher"))
    teacher = lite0(detector)
    with tempfile.TemporaryDirectory() as folder:
        bank = make_bank(Path(folder), IMAGES, SIZE)
        pairs = make_pairs(bank, teacher, Path(folder) / "cache")
        numbers = itertools.count()

        def draw() -> Batch:
            return pairs.draw(0, next(numbers), BATCH)

        timings = take_turns(
            {
                "data side alone": draw,
                "step from the cache": step(detector, draw, dtype),
                "teacher in the loop": step(detector, draw, dtype, teacher=teacher),
                "LiteMedSAM at 128 px, forward alone": sam_in_the_loop(),
                "float32": step(detector, draw, None),
                "fused optimiser": step(detector, draw, dtype, fused=True),
                "channels last": step(detector, draw, dtype, channels_last=True),
                "gradient checkpointing": step(checkpointed(detector), draw, dtype),
                **({"torch.compile": step(compiled(detector), draw, dtype)} if options.compile else {}),
            },
            options.rounds,
        )
    rows = told(timings, "step from the cache", facts := surroundings(options.threads, ("torch", "numpy")))
    print(
        f"\n{'an image, forward and backward':38}{'GFLOP':>9}{'MiB kept':>10}{'images/s at best':>18}"
        f"{f'share at {TARGET}/s':>15}"
    )
    for name, stream, size in (
        ("two students and FA, 1024 px", "student", 1024),
        ("two students and FA, 256 px", "student", 256),
        ("teacher as plain stream, 1024 px", "teacher", 1024),
        ("teacher as plain stream, 256 px", "teacher", 256),
    ):
        cost = count(stream, size)
        # What is kept is written once and read once; that is a lower bound of the traffic.
        seconds = max(cost["gflop"] * 1e9 / H100_FLOPS, 2 * cost["mib"] * 2**20 / H100_BYTES)
        rows.append({"name": name, **cost, "h100_images_per_s_at_best": 1 / seconds})
        print(f"{name:38}{cost['gflop']:9.0f}{cost['mib']:10.0f}{1 / seconds:18.0f}{100 * TARGET * seconds:14.1f}%")
    write_json(options.json, {**facts, "autocast": str(dtype)}, rows)


if __name__ == "__main__":
    main()
