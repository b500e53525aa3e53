"""Where the steps of one line read and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stlm_core.errors import UserError

STEPS = (
    "validate",
    "synthesize",
    "cache-teacher",
    "distill",
    "train-fa",
    "evaluate",
    "export",
    "register",
)
"""What `stlm run`, DVC and Kubeflow run, in order."""

BY_HAND = ("quantize",)
"""Steps outside that order: whoever wants their outputs runs them."""


@dataclass(frozen=True)
class Workspace:
    """``<root>/<line>/<step>/`` for every step, unless ``overrides`` gives a step's folder.

    A container gets its inputs at paths that the orchestrator chooses: ``overrides`` maps step names to them.
    """

    root: Path
    line: str
    overrides: Mapping[str, Path] = field(default_factory=dict)

    def folder(self, step: str) -> Path:
        """The step's output folder, whether or not it exists."""
        if step not in (*STEPS, *BY_HAND):
            raise ValueError(f"unknown step {step!r}")
        return self.overrides.get(step, self.root / self.line / step)

    def need(self, step: str, file: str) -> Path:
        """An output ``file`` of an earlier ``step``.

        Raises:
            UserError: it does not exist yet; the message names the command that makes it.
        """
        path = self.folder(step) / file
        if not path.exists():
            raise UserError(f"{path}: missing; run `stlm {step} --line {self.line}` first")
        return path
