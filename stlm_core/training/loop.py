"""The training loop both stages share: schedule, mixed precision, validation, selection, checkpoints, curve."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stlm_core.errors import StlmError
from stlm_core.files import write_bytes_atomic
from stlm_core.progress import progress
from stlm_core.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from stlm_core.training.distributed import ALONE, Ranks
from stlm_core.training.optimisation import autocast_dtype, schedule_factor, set_learning_rate
from stlm_core.training_settings import TrainingConfig

CURVE = "curve.csv"
SELECTION = "selection"  # the validation figure by which weights are chosen; larger is better
_CURVE_POINTS_PER_VALIDATION = 5
# Validation figures this close are a tie, and the later weights win it: a schedule that ends at a small learning rate
# makes them the better trained ones, while a dozen held-back images cannot tell such states apart.
_TIE = 0.02


class Task(Protocol):
    """What a stage trains.

    ``module`` is everything whose weights are saved; ``losses`` gives named scalars, of which ``total`` is
    minimised; ``validate`` gives named figures, of which ``selection`` chooses the weights.
    """

    optimiser: torch.optim.Optimizer

    @property
    def module(self) -> nn.Module: ...

    def train_mode(self) -> None: ...

    def losses(self, step: int) -> dict[str, Tensor]: ...

    def validate(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Outcome:
    """``best_step`` is where the kept weights come from: the last step within 0.02 of the highest selection figure;
    ``best`` their validation figures."""

    best_step: int
    best: dict[str, float]


def run_loop(
    task: Task, label: str, settings: TrainingConfig, folder: Path, device: torch.device, ranks: Ranks = ALONE
) -> Outcome:
    """Train ``task`` in ``folder``, leave the best weights in its module and ``curve.csv`` in the folder.

    ``label`` names the training in the progress display and in errors. ``settings.batch_size`` and ``settings.seed``
    are the task's own affair. A checkpoint found in the folder is continued: on a CPU with the same thread count the
    final weights equal those of an undisturbed run bit by bit. CUDA kernels without a deterministic form are allowed
    and warned about. The last checkpoint stays, for whoever is killed before the weights are saved: see
    :func:`~stlm_core.training.checkpoint.drop_checkpoint`.

    With several ``ranks`` each of them calls this, with a task whose losses are means over its equal share of the
    batch; all end with the same weights and outcome, and rank 0 writes.

    Raises:
        StlmError: the loss is no longer finite.
    """
    dtype = autocast_dtype(settings.autocast, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    state = _State()
    with _deterministic(device):
        ranks.share_statistics(task.module)
        if (saved := load_checkpoint(folder)) is not None:
            state.restore(saved, task, scaler)
        ranks.require_same(f"{folder / CHECKPOINT}: the step it continues from", state.step)
        with progress(label, settings.steps, start=state.step) as shown:
            while state.step < settings.steps:
                losses = _train_step(task, label, settings, state.step, scaler, device, dtype, ranks)
                state.step += 1
                state.add(losses)
                validates = state.step % settings.validate_every == 0 or state.step == settings.steps
                if validates or state.step % max(1, settings.validate_every // _CURVE_POINTS_PER_VALIDATION) == 0:
                    figures = ranks.from_main(task.validate) if validates else {}
                    state.record(settings, figures, task.module)
                if ranks.main and (state.step % settings.checkpoint_every == 0 or state.step == settings.steps):
                    save_checkpoint(folder, state.dump(task, scaler))
                shown.advance(1, f"loss {losses['total']:.4f}")
    task.module.load_state_dict(state.best_weights)
    if ranks.main:
        write_bytes_atomic(folder / CURVE, _as_csv(state.curve).encode())
    return Outcome(state.best_step, state.best)


def _train_step(
    task: Task,
    label: str,
    settings: TrainingConfig,
    step: int,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    dtype: torch.dtype | None,
    ranks: Ranks,
) -> dict[str, float]:
    task.train_mode()
    set_learning_rate(task.optimiser, schedule_factor(settings.optimiser, step, settings.steps))
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        losses = task.losses(step)
    values = ranks.means(losses)
    if not math.isfinite(values["total"]):
        raise StlmError(f"{label}: the loss is no longer finite at step {step}; lower the learning rate")
    task.optimiser.zero_grad(set_to_none=True)
    scaler.scale(losses["total"]).backward()
    ranks.average_gradients(task.optimiser)
    if settings.optimiser.clip_norm is not None:
        scaler.unscale_(task.optimiser)
        trained = (parameter for group in task.optimiser.param_groups for parameter in group["params"])
        torch.nn.utils.clip_grad_norm_(trained, settings.optimiser.clip_norm)
    scaler.step(task.optimiser)
    scaler.update()
    return values


class _State:
    """Everything a resumed run needs besides the weights."""

    def __init__(self) -> None:
        self.step = 0
        self.sums: dict[str, float] = {}
        self.count = 0
        self.curve: list[dict[str, float]] = []
        self.best_step = -1
        self.highest = -math.inf
        self.best: dict[str, float] = {}
        self.best_weights: dict[str, Tensor] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def record(self, settings: TrainingConfig, figures: Mapping[str, float], module: nn.Module) -> None:
        lr_factor = schedule_factor(settings.optimiser, self.step - 1, settings.steps)
        means = {f"train_{name}": total / self.count for name, total in self.sums.items()}
        shown = {f"validation_{name}": value for name, value in figures.items()}
        self.curve.append({"step": float(self.step), "lr_factor": lr_factor, **means, **shown})
        self.sums, self.count = {}, 0
        if not figures:
            return
        self.highest = max(self.highest, figures[SELECTION])
        if figures[SELECTION] >= self.highest - _TIE:
            self.best_step, self.best = self.step, dict(figures)
            self.best_weights = {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}

    def dump(self, task: Task, scaler: torch.amp.GradScaler) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in vars(self)}
        return {
            "state": own,
            "weights": task.module.state_dict(),
            "optimiser": task.optimiser.state_dict(),
            "scaler": scaler.state_dict(),
        }

    def restore(self, saved: dict[str, Any], task: Task, scaler: torch.amp.GradScaler) -> None:
        vars(self).update(saved["state"])
        task.module.load_state_dict(saved["weights"])
        task.optimiser.load_state_dict(saved["optimiser"])
        scaler.load_state_dict(saved["scaler"])


def _as_csv(curve: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in curve for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.8g}" for name, value in row.items()} for row in curve)
    return text.getvalue()


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a pass over every new tensor
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is only repeatable with a fixed workspace
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
