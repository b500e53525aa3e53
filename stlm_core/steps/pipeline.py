"""The steps of a line: one by its name, or all in order."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from stlm_core.config import LineConfig
from stlm_core.steps.contract import StepResult
from stlm_core.steps.workspace import STEPS, Workspace


def run_one(step: str, config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Run the step of that name; step ``a-b`` is the function ``a_b`` of the module of the same name.

    Raises:
        ValueError: no step has that name.
    """
    if step not in STEPS:
        raise ValueError(f"unknown step {step!r}")
    name = step.replace("-", "_")
    run = getattr(importlib.import_module(f"stlm_core.steps.{name}"), name)
    result: StepResult = run(config, workspace, force=force)
    return result


def run_line(config: LineConfig, workspace: Workspace, *, force: bool = False) -> Iterator[tuple[str, StepResult]]:
    """Run the steps one by one, giving each name and result as it ends. A finished step whose inputs, settings and
    code are unchanged is not repeated, so a failed run continues where it stopped."""
    for step in STEPS:
        yield step, run_one(step, config, workspace, force=force)
