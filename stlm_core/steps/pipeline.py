"""The steps of a line: one by its name, or all in order."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from stlm_core.config import LineConfig
from stlm_core.steps.contract import StepResult
from stlm_core.steps.workspace import BY_HAND, STEPS, Workspace

TRAINING_STEPS = ("distill", "train-fa")


def run_one(
    step: str, config: LineConfig, workspace: Workspace, *, force: bool = False, processes: int = 1
) -> StepResult:
    """Run the step of that name; step ``a-b`` is the function ``a_b`` of the module of the same name.

    ``processes`` is for the steps that train, and nothing to the others.

    Raises:
        ValueError: no step has that name.
    """
    if step not in (*STEPS, *BY_HAND):
        raise ValueError(f"unknown step {step!r}")
    name = step.replace("-", "_")
    run = getattr(importlib.import_module(f"stlm_core.steps.{name}"), name)
    options = {"processes": processes} if step in TRAINING_STEPS else {}
    result: StepResult = run(config, workspace, force=force, **options)
    return result


def run_line(
    config: LineConfig, workspace: Workspace, *, force: bool = False, processes: int = 1
) -> Iterator[tuple[str, StepResult]]:
    """Run the steps one by one, giving each name and result as it ends. A finished step whose inputs, settings and
    code are unchanged is not repeated, so a failed run continues where it stopped."""
    for step in STEPS:
        yield step, run_one(step, config, workspace, force=force, processes=processes)
