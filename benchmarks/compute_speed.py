"""Cost of the teacher and of a training step, in float32 and in bfloat16.

    python benchmarks/compute_speed.py [--rounds 7] [--threads 1] [--json FILE]

The contenders take turns, so that a machine busy with other work slows all of them alike; medians count. "cpu ms" is
processor time of all threads, which waiting for a busy core does not lengthen; the ratio is of processor times,
bfloat16 to float32. Teacher: one view of profile `two-students` (256 px) at half LiteMedSAM's own size, the profile's
`teacher.input_size`, and at its own. Step: forward, backward and update of the joint training of streams and FA, a
batch of 4 at 256 px. Weights do not matter for the time, so none are read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stlm_core.cache.features import to_grid
from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.tiny_vit import TinyViT
from stlm_core.teachers.base import Teacher
from stlm_core.teachers.registry import teacher_facts
from stlm_core.teachers.sam_tiny import TinySam
from stlm_core.training.losses import aggregation_loss, distillation_loss, mask_to_grid
from stlm_core.training.optimisation import autocast_dtype, build_optimiser
from stlm_core.training_settings import FaConfig

SIZE, GRID, BATCH = 256, 16, 4
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
CPU = torch.device("cpu")
Work = Callable[[torch.dtype | None], object]


def teacher_view(input_size: int) -> Work:
    """One view through LiteMedSAM at ``input_size`` pixels, to the cached form."""
    facts = teacher_facts("lite_medsam")
    assert facts.stem is not None
    teacher = Teacher(facts, TinySam(TinyViT(facts.stem), PromptFreeDecoder()), "", input_size)
    image = torch.randint(0, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8)

    def work(dtype: torch.dtype | None) -> object:
        with torch.no_grad(), torch.autocast(CPU.type, dtype=dtype, enabled=dtype is not None):
            maps = teacher(image)
        return to_grid(maps, GRID)

    return work


def training_step() -> Work:
    """One step of stage two with ``joint_finetune``."""
    config = FaConfig()
    detector = Detector(DetectorFacts(SIZE, "conv3x3", "unit"))
    optimiser = build_optimiser(config.optimiser, [(detector.parameters(), config.optimiser.lr)])
    images = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8)
    targets = mask_to_grid(torch.randint(0, 2, (BATCH, SIZE, SIZE)), GRID, GRID)
    teacher = torch.nn.functional.normalize(torch.randn(BATCH, 2, 256, GRID, GRID), dim=2)

    def work(dtype: torch.dtype | None) -> object:
        detector.train()
        with torch.autocast(CPU.type, dtype=dtype, enabled=dtype is not None):
            found = detector.streams(detector.preprocess(images))
            logits = detector.aggregation(found)
            loss = aggregation_loss(logits, targets, config.focal_gamma, config.l1_weight)
            loss = loss + distillation_loss(found, detector.streams.targets(teacher, teacher))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss

    return work


def measure(contenders: dict[str, Work], rounds: int) -> list[dict[str, Any]]:
    """Median wall and processor milliseconds of ``rounds`` turns each, after one that does not count."""
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds + 1):
        for name, work in contenders.items():
            for precision, dtype in DTYPES.items():
                wall, processor = time.perf_counter(), time.process_time()
                work(dtype)
                spent = time.perf_counter() - wall, time.process_time() - processor
                times.setdefault((name, precision), []).append(spent)
    return [
        {
            "name": name,
            "precision": precision,
            "wall_ms": 1000 * statistics.median(wall for wall, _ in spent[1:]),
            "cpu_ms": 1000 * statistics.median(processor for _, processor in spent[1:]),
        }
        for (name, precision), spent in times.items()
    ]


def main() -> None:
    """Print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of every contender")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    native = autocast_dtype("auto", CPU) is torch.bfloat16
    rows = measure(
        {"teacher, view at 128 px": teacher_view(128), "teacher, view at 256 px": teacher_view(256),
         "training step": training_step()},
        options.rounds,
    )  # fmt: skip
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}, "
        f"bfloat16 {'native' if native else 'emulated'}"
    )
    print(f"{'':26}{'precision':>10}{'wall ms':>10}{'cpu ms':>10}{'ratio':>8}")
    whole = {row["name"]: row["cpu_ms"] for row in rows if row["precision"] == "float32"}
    for row in rows:
        row["cpu_ratio"] = row["cpu_ms"] / whole[row["name"]]
        figures = f"{row['wall_ms']:10.0f}{row['cpu_ms']:10.0f}{row['cpu_ratio']:8.2f}"
        print(f"{row['name']:26}{row['precision']:>10}{figures}")
    if options.json:
        facts = {"threads": options.threads, "torch": torch.__version__, "bfloat16_native": native}
        options.json.write_text(json.dumps({**facts, "rounds": options.rounds, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
