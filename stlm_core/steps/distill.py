"""Step ``distill``: train the two streams on the cached teacher features."""

from __future__ import annotations

from pathlib import Path

from stlm_core.config import STREAM_SECTIONS, LineConfig
from stlm_core.files import write_bytes_atomic
from stlm_core.models.detector import save_streams
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.parallel_training import count_processes, run_training
from stlm_core.steps.training import (
    new_detector,
    open_data,
    to_device,
    training_inputs,
    write_selection,
)
from stlm_core.steps.workspace import Workspace
from stlm_core.training.checkpoint import drop_checkpoint
from stlm_core.training.distill import Distillation
from stlm_core.training.distributed import Ranks
from stlm_core.training.loop import CURVE, Outcome, run_loop
from stlm_core.training.optimisation import pick_device, trained_parameters
from stlm_core.training.remember import fit_memory, rows_of_training
from stlm_core.training.validation import PseudoValidation

STEP = "distill"
STREAMS = "streams.safetensors"


def distill(config: LineConfig, workspace: Workspace, *, force: bool = False, processes: int = 1) -> StepResult:
    """Train the streams and keep the weights that are best on held-back good images with pseudo anomalies.

    ``processes`` share every batch, one GPU each; 0 for one a GPU. What is trained does not depend on it, but for
    rounding.

    Raises:
        UserError: an input is missing or damaged, or the batch cannot be divided among the processes.
    """
    count = count_processes(processes, STEP, config.distill.batch_size)

    def work(partial: Path) -> str:
        return run_training(_train, STEP, config, workspace, partial, count)

    inputs = training_inputs(config, workspace)
    return run_step(STEP, config, STREAM_SECTIONS, inputs, workspace.folder(STEP), work, resumable=True, force=force)


def _train(config: LineConfig, workspace: Workspace, folder: Path, ranks: Ranks) -> str:
    device = pick_device()
    bank, pairs = open_data(config, workspace, ranks)
    detector = new_detector(config, workspace, "tlm", seed=config.distill.seed)
    if config.model.centre_features:
        detector.streams.set_statistics(*ranks.from_main(pairs.moments))
    detector = to_device(detector, device)
    if (memory := detector.memory) is not None:
        found = ranks.from_main(lambda: fit_memory(detector, bank, config.distill.seed, device, pairs.varied))
        for kept, value in zip((memory.vectors, memory.centre, memory.deviation), found, strict=True):
            kept.copy_(value)
    if not trained_parameters(detector.streams):
        if ranks.main:
            save_streams(folder / STREAMS, detector)
            write_selection(folder, Outcome(0, {}))
            write_bytes_atomic(folder / CURVE, b"step,train_total\n")
        return (
            f"{rows_of_training(config.model.memory, bank)} features remembered; nothing to distill: the plain stream "
            "is the teacher, and the line has no denoising stream"
        )
    task = Distillation(detector, pairs, PseudoValidation(bank), config.distill, device, ranks)
    outcome = run_loop(task, f"{STEP} {config.name}", config.distill, folder, device, ranks)
    if ranks.main:
        save_streams(folder / STREAMS, detector)
        write_selection(folder, outcome)
        drop_checkpoint(folder)
    return (
        f"streams of step {outcome.best_step}/{config.distill.steps}: on pseudo anomalies image AUROC "
        f"{outcome.best['image_auroc']:.4f}, pixel AUROC {outcome.best['pixel_auroc']:.4f}"
    )
