"""Step ``train-fa``: train the feature aggregation, jointly with the streams if configured."""

from __future__ import annotations

from pathlib import Path

from stlm_core.config import LineConfig
from stlm_core.models.detector import load_streams, save_detector
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.distill import STREAMS
from stlm_core.steps.training import INPUT_SECTIONS, new_detector, open_data, training_inputs, write_selection
from stlm_core.steps.workspace import Workspace
from stlm_core.training.aggregate import Aggregation
from stlm_core.training.loop import run_loop
from stlm_core.training.optimisation import pick_device
from stlm_core.training.validation import PseudoValidation

STEP = "train-fa"
DETECTOR = "detector.safetensors"


def train_fa(config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Train FA on the distilled streams and keep the weights that are best on held-back good images.

    Raises:
        UserError: an input is missing or damaged.
    """

    def work(partial: Path) -> str:
        device = pick_device()
        bank, pairs = open_data(config, workspace)
        detector = new_detector(config, "fa", seed=config.fa.seed)
        load_streams(workspace.need("distill", STREAMS), detector)
        task = Aggregation(detector.to(device), pairs, PseudoValidation(bank), config.fa, device)
        outcome = run_loop(task, f"{STEP} {config.name}", config.fa, partial, device)
        save_detector(partial / DETECTOR, detector)
        write_selection(partial, outcome)
        return (
            f"detector of step {outcome.best_step}/{config.fa.steps}: on pseudo anomalies image AUROC "
            f"{outcome.best['image_auroc']:.4f}, pixel AUROC {outcome.best['pixel_auroc']:.4f}, "
            f"pixel AP {outcome.best['pixel_ap']:.4f}"
        )

    inputs = {**training_inputs(config, workspace), "streams": workspace.need("distill", STREAMS)}
    return run_step(
        STEP, config, (*INPUT_SECTIONS, "fa"), inputs, workspace.folder(STEP), work, resumable=True, force=force
    )
