"""Whether the outputs of an earlier step belong to what is at hand now.

DVC, Kubeflow and ``stlm run`` run the steps in order. Whoever runs them one by one may leave one out, and a threshold
of the detector before would then be shipped with the present one: every later check compares the file with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stlm_core.config import LineConfig
from stlm_core.errors import UserError
from stlm_core.files import sha256_file, sha256_tree
from stlm_core.steps.contract import MANIFEST, read_manifest


def require_made_from(
    folder: Path, step: str, config: LineConfig, sections: tuple[str, ...], inputs: Mapping[str, Path]
) -> None:
    """Compare what ``step`` says that it made the outputs in ``folder`` from with the present settings and files.

    ``inputs``: names of inputs of that step and where they lie now. Nothing is known of outputs whose manifest is
    missing or describes others: DVC fetches outputs of another day without it.

    Raises:
        UserError: the settings ``sections`` or a file have changed since; the manifest is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return
    made = read_manifest(folder)
    if not _describes(made, folder):
        return
    again = f"run `stlm {step} --line {config.name}` again"
    if made.get("config") != config.section_hash(*sections):
        raise UserError(f"{folder}: made with other settings than those of now ({', '.join(sections)}); {again}")
    for path in other_inputs(made, inputs):
        raise UserError(f"{folder}: made from another {path.name} than {path}; {again}")


def other_inputs(made: Mapping[str, Any], inputs: Mapping[str, Path]) -> list[Path]:
    """Those of the files ``inputs`` that the step with the manifest ``made`` did not read as they are now."""
    read = made.get("inputs")
    known = read if isinstance(read, dict) else {}
    return [path for name, path in inputs.items() if known.get(name) != sha256_tree(path)]


def _describes(made: Mapping[str, Any], folder: Path) -> bool:
    """Whether a manifest is of the files that lie beside it."""
    outputs = made.get("outputs")
    if not isinstance(outputs, dict) or not isinstance(made.get("inputs"), dict):
        return False
    files = {name: folder / name for name in outputs}
    return all(file.is_file() and sha256_file(file) == outputs[name].get("sha256") for name, file in files.items())
