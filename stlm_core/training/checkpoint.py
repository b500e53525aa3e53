"""Checkpoints from which a killed training continues to the same weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from stlm_core.errors import UserError

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the folder's checkpoint in one move; the old one stays whole until the new one is on disk.

    ``state`` holds tensors, numbers, strings and containers of them. The global random state is added; on CUDA that of
    the current device alone, so that a machine with another number of them can continue.

    Raises:
        UserError: the disk is full or not writable.
    """
    state = {**state, "torch_rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    path, temporary = folder / CHECKPOINT, folder / f".{CHECKPOINT}.tmp"
    try:
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: the checkpoint cannot be written: {error}; the previous one is kept") from None


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The folder's checkpoint with the global random state restored, or None where there is none or it is damaged."""
    try:
        state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # damaged bytes raise many types; starting over is always right
        return None
    if not isinstance(state, dict) or "torch_rng" not in state:
        return None
    torch.set_rng_state(state.pop("torch_rng"))
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state.pop("cuda_rng"))
    return state


def drop_checkpoint(folder: Path) -> None:
    """Remove the folder's checkpoint, once what was trained is saved."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
