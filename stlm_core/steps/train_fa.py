"""Step ``train-fa``: train the feature aggregation, jointly with the streams if configured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stlm_core.config import DETECTOR_SECTIONS, LineConfig
from stlm_core.models.detector import load_streams, save_detector
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.distill import STREAMS
from stlm_core.steps.parallel_training import count_processes, run_training
from stlm_core.steps.training import (
    new_detector,
    open_data,
    to_device,
    training_inputs,
    write_selection,
)
from stlm_core.steps.workspace import Workspace
from stlm_core.training.aggregate import Aggregation
from stlm_core.training.balance import memory_balance
from stlm_core.training.checkpoint import drop_checkpoint
from stlm_core.training.distributed import Ranks
from stlm_core.training.loop import run_loop
from stlm_core.training.optimisation import pick_device
from stlm_core.training.remember import complete_memory, require_spare_rows
from stlm_core.training.validation import PseudoValidation

STEP = "train-fa"
DETECTOR = "detector.safetensors"


def train_fa(config: LineConfig, workspace: Workspace, *, force: bool = False, processes: int = 1) -> StepResult:
    """Train FA on the distilled streams and keep the weights that are best on held-back good images.

    ``processes`` share every batch, one GPU each; 0 for one a GPU. What is trained does not depend on it, but for
    rounding.

    Raises:
        UserError: an input is missing or damaged, or the batch cannot be divided among the processes.
    """
    count = count_processes(processes, "fa", config.fa.batch_size)

    def work(partial: Path) -> str:
        return run_training(_train, STEP, config, workspace, partial, count)

    inputs = {**training_inputs(config, workspace), "streams": workspace.need("distill", STREAMS)}
    return run_step(STEP, config, DETECTOR_SECTIONS, inputs, workspace.folder(STEP), work, resumable=True, force=force)


def _train(config: LineConfig, workspace: Workspace, folder: Path, ranks: Ranks) -> str:
    device = pick_device()
    bank, pairs = open_data(config, workspace, ranks)
    detector = new_detector(config, workspace, "fa", seed=config.fa.seed)
    load_streams(workspace.need("distill", STREAMS), detector)
    if detector.memory is not None:
        require_spare_rows(detector, bank)
    validation = PseudoValidation(bank)
    task = Aggregation(to_device(detector, device), pairs, validation, config.fa, device, ranks)
    outcome = run_loop(task, f"{STEP} {config.name}", config.fa, folder, device, ranks)
    if (memory := detector.memory) is not None:
        found = ranks.from_main(lambda: memory_balance(detector, bank, config.fa.seed, device, pairs.varied))
        for weight, value in zip((memory.share, memory.map_shift), found, strict=True):
            weight.fill_(value)
        outcome = replace(outcome, best=ranks.from_main(lambda: validation.figures(detector, device)))
        # Last of all: until here the validation images were to judge.
        memory.vectors.copy_(
            ranks.from_main(lambda: complete_memory(detector, bank, config.fa.seed, device, pairs.varied))
        )
    if ranks.main:
        save_detector(folder / DETECTOR, detector)
        write_selection(folder, outcome)
        drop_checkpoint(folder)
    return (
        f"detector of step {outcome.best_step}/{config.fa.steps}: on pseudo anomalies image AUROC "
        f"{outcome.best['image_auroc']:.4f}, pixel AUROC {outcome.best['pixel_auroc']:.4f}, "
        f"pixel AP {outcome.best['pixel_ap']:.4f}"
    )
