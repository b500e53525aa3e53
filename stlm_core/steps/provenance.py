"""Whether the outputs of an earlier step belong to what is at hand now.

DVC, Kubeflow and ``stlm run`` run the steps in order. Whoever runs them one by one may leave one out, and a threshold
of the detector before would then be shipped with the present one: every later check compares the file with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stlm_core.config import BANK_SECTIONS, DETECTOR_SECTIONS, STREAM_SECTIONS, LineConfig
from stlm_core.errors import UserError
from stlm_core.files import sha256_file, sha256_tree
from stlm_core.steps.contract import MANIFEST, read_manifest
from stlm_core.steps.workspace import Workspace


def trained_on(config: LineConfig) -> dict[str, tuple[str, str]]:
    """Outputs of earlier steps that both training steps read, by the names in their manifests: step and file."""
    read = {
        "bank": ("synthesize", "index.parquet"),
        "pose": ("synthesize", "pose.json"),
        "cache": ("cache-teacher", "index.json"),
    }
    if config.synthesize.fresh:  # what is drawn anew in every step is not in the bank's index
        read["textures"] = ("synthesize", "textures.npy")
    return read


def require_trained_as_now(config: LineConfig, workspace: Workspace) -> None:
    """Refuse a detector that was not trained with the present settings, on the images and features that lie here.

    A detector from elsewhere (a container's, or one that was named) has nothing here that it was made from: its own
    settings alone are compared.

    Raises:
        UserError: see :func:`require_made_from`.
    """
    trained = workspace.folder("train-fa")
    if "train-fa" in workspace.overrides:
        require_made_from(trained, "train-fa", config, DETECTOR_SECTIONS, {})
        return
    seen = trained_on(config)

    def here(files: Mapping[str, tuple[str, str]]) -> dict[str, Path]:
        found = {name: workspace.folder(step) / file for name, (step, file) in files.items()}
        return {name: path for name, path in found.items() if path.is_file()}

    streams = {"streams": ("distill", "streams.safetensors")}
    require_made_from(trained, "train-fa", config, DETECTOR_SECTIONS, here({**seen, **streams}))
    require_made_from(workspace.folder("distill"), "distill", config, STREAM_SECTIONS, here(seen))
    manifest = here({"manifest": ("validate", "manifest.parquet")})
    require_made_from(workspace.folder("synthesize"), "synthesize", config, BANK_SECTIONS, manifest, "index.parquet")


def require_made_from(
    folder: Path, step: str, config: LineConfig, sections: tuple[str, ...], inputs: Mapping[str, Path], *known_by: str
) -> None:
    """Compare what ``step`` says that it made the outputs in ``folder`` from with the present settings and files.

    ``inputs``: names of inputs of that step and where they lie now. Nothing is known of outputs whose manifest is
    missing or describes others: DVC fetches outputs of another day without it. ``known_by``: the outputs that are
    compared for this, where reading all of them would take too long.

    Raises:
        UserError: the settings ``sections`` or a file have changed since; the manifest is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return
    made = read_manifest(folder)
    if not _describes(made, folder, known_by):
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


def _describes(made: Mapping[str, Any], folder: Path, known_by: tuple[str, ...]) -> bool:
    """Whether a manifest is of the files that lie beside it, or of those named."""
    outputs = made.get("outputs")
    if not isinstance(outputs, dict) or not isinstance(made.get("inputs"), dict):
        return False
    if not outputs.keys() >= {*known_by}:
        return False
    files = {name: folder / name for name in known_by or outputs}
    return all(file.is_file() and sha256_file(file) == outputs[name].get("sha256") for name, file in files.items())
