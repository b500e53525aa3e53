"""All steps of a line, in order."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from stlm_core.config import LineConfig
from stlm_core.steps.contract import StepResult
from stlm_core.steps.workspace import STEPS, Workspace


def run_line(config: LineConfig, workspace: Workspace, *, force: bool = False) -> Iterator[tuple[str, StepResult]]:
    """Run the steps one by one, giving each name and result as it ends. A finished step whose inputs, settings and
    code are unchanged is not repeated, so a failed run continues where it stopped."""
    for step in STEPS:
        name = step.replace("-", "_")
        run = getattr(importlib.import_module(f"stlm_core.steps.{name}"), name)
        yield step, run(config, workspace, force=force)
