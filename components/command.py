"""What every component's container runs."""

from __future__ import annotations

from typing import Any

from kfp import dsl

VERSION = "0.1.0"
DATA_IMAGE = f"localhost/stlm-data:{VERSION}"
TRAIN_IMAGE = f"localhost/stlm-train-cpu:{VERSION}"
TRAIN_CUDA_IMAGE = f"localhost/stlm-train-cuda:{VERSION}"
SERVE_IMAGE = f"localhost/stlm-serve:{VERSION}"
LAUNCH_IMAGE = f"localhost/stlm-launch:{VERSION}"


def task(image: str, name: str, line: Any) -> dsl.ContainerSpec:
    """``stlm task NAME``: in the place of ``{{$}}`` KFP puts the executor input, which names every input and output."""
    return dsl.ContainerSpec(
        image=image, command=["stlm", "task", name], args=["--line", line, "--executor-input", "{{$}}"]
    )
