"""What the images of the threshold add to a detector's memory, as a file beside their threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic
from stlm_core.models.detector import Detector
from stlm_core.models.feature_memory import CHANNELS

_KEY = "vectors"


def save_remembered(path: Path, vectors: Tensor) -> None:
    """Write ``vectors`` (n, 152) float32 as safetensors; n may be 0.

    Raises:
        UserError: the folder cannot be written, or the disk is full; an old file stays.
    """
    write_bytes_atomic(path, save({_KEY: vectors.contiguous()}))


def add_remembered(detector: Detector, path: Path) -> None:
    """Add what :func:`save_remembered` wrote to the detector's memory, in place.

    Raises:
        UserError: the file is missing, damaged or not of such vectors, or the detector has no memory to add to.
    """
    try:
        vectors = load(path.read_bytes())[_KEY]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not what an evaluation remembers: {error}; run `stlm evaluate` again") from None
    if vectors.ndim != 2 or vectors.shape[1] != CHANNELS or vectors.dtype != torch.float32:
        raise UserError(f"{path}: vectors of another kind; run `stlm evaluate` again")
    if not len(vectors):
        return
    if (memory := detector.memory) is None:
        raise UserError(f"{path}: the detector has no memory; run `stlm evaluate` again")
    memory.vectors = torch.cat([memory.vectors, vectors.to(memory.vectors.device)])
    detector.facts = replace(detector.facts, memory=len(memory.vectors))
