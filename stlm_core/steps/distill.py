"""Step ``distill``: train the two streams on the cached teacher features."""

from __future__ import annotations

from pathlib import Path

from stlm_core.config import LineConfig
from stlm_core.models.detector import save_streams
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.training import INPUT_SECTIONS, new_detector, open_data, training_inputs, write_selection
from stlm_core.steps.workspace import Workspace
from stlm_core.training.distill import Distillation
from stlm_core.training.loop import run_loop
from stlm_core.training.optimisation import pick_device
from stlm_core.training.validation import PseudoValidation

STEP = "distill"
STREAMS = "streams.safetensors"


def distill(config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Train the streams and keep the weights that are best on held-back good images with pseudo anomalies.

    Raises:
        UserError: an input is missing or damaged.
    """

    def work(partial: Path) -> str:
        device = pick_device()
        bank, pairs = open_data(config, workspace)
        detector = new_detector(config, "tlm", seed=config.distill.seed)
        if config.model.centre_features:
            detector.streams.centre.copy_(pairs.mean_features())
        detector.to(device)
        task = Distillation(detector, pairs, PseudoValidation(bank), config.distill, device)
        outcome = run_loop(task, f"{STEP} {config.name}", config.distill, partial, device)
        save_streams(partial / STREAMS, detector)
        write_selection(partial, outcome)
        return (
            f"streams of step {outcome.best_step}/{config.distill.steps}: on pseudo anomalies image AUROC "
            f"{outcome.best['image_auroc']:.4f}, pixel AUROC {outcome.best['pixel_auroc']:.4f}"
        )

    inputs = training_inputs(config, workspace)
    return run_step(
        STEP, config, (*INPUT_SECTIONS, "distill"), inputs, workspace.folder(STEP), work, resumable=True, force=force
    )
