"""Time of one image through SAM ViT-H, the paper's teacher, with random weights: what it would cost in the loop.

    python benchmarks/sam_vit_h.py [--threads 2] [--json FILE]

The product's own path (stlm_core/teachers/sam_vit.py) at 1024 px, once, without a turn to warm up: it takes a minute
on two cores and 6 GB. segment-anything's wheel is fetched with pip where the package is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import time
import types
from pathlib import Path

import torch
from measure import surroundings, write_json
from torch.utils.flop_counter import FlopCounterMode

from stlm_core.teachers.base import Teacher
from stlm_core.teachers.registry import teacher_facts
from stlm_core.teachers.sam_vit import SamVit
from stlm_core.training.optimisation import autocast_dtype
from stlm_core.weights.catalog import WheelSource
from stlm_core.weights.wheel import download_wheel

# What segment_anything imports of torchvision, which does not always fit the torch beside it; the encoder calls none.
UNUSED = {
    "torchvision": (),
    "torchvision.ops": (),
    "torchvision.ops.boxes": ("batched_nms", "box_area"),
    "torchvision.transforms": (),
    "torchvision.transforms.functional": ("resize", "to_pil_image"),
}


def random_sam() -> SamVit:
    """SAM ViT-H as it is initialised."""
    with tempfile.TemporaryDirectory() as folder:
        if importlib.util.find_spec("segment_anything") is None:
            sys.path.append(str(download_wheel(WheelSource("segment-anything==1.0", ""), Path(folder))))
        try:
            importlib.import_module("torchvision")
        except (ImportError, RuntimeError):
            for full, names in UNUSED.items():
                sys.modules[full] = types.ModuleType(full)
                for name in names:
                    setattr(sys.modules[full], name, None)
        return SamVit(importlib.import_module("segment_anything").sam_model_registry["vit_h"]())


def main() -> None:
    """Count, measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    teacher = Teacher(teacher_facts("sam_vit_h"), random_sam(), "", 1024)
    image = torch.randint(0, 256, (1, 1024, 1024, 3), dtype=torch.uint8)
    dtype = autocast_dtype("auto", torch.device("cpu"))
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        began, processor = time.perf_counter(), time.process_time()
        teacher(image)
        wall, cpu = time.perf_counter() - began, time.process_time() - processor
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        teacher.to("meta").network(torch.empty(1, 3, 1024, 1024))
    parameters = sum(parameter.numel() for parameter in teacher.parameters())
    facts = surroundings(options.threads, ("torch",))
    print(f"{facts['cpu']}, {options.threads} threads, {dtype}, load {facts['load_at_end']}")
    tera = counter.get_total_flops() / 1e12
    print(f"SAM ViT-H: {parameters / 1e6:.0f} M parameters, {tera:.2f} TFLOP an image")
    print(f"one image at 1024 px: {wall:.1f} s, {cpu:.1f} s of processor, {tera / wall:.3f} TFLOP/s")
    row = {"name": "SAM ViT-H", "wall_s": wall, "cpu_s": cpu, "tflop": tera, "parameters": parameters}
    write_json(options.json, {**facts, "autocast": str(dtype)}, [row])


if __name__ == "__main__":
    main()
