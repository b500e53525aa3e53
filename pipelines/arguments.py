"""The arguments of a pipeline's run, from a line's settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pipelines.placement import WEIGHTS, Images
from stlm_core.config import LineConfig, as_parameter
from stlm_core.errors import UserError
from stlm_core.steps.contract import code_version
from stlm_core.weights.store import is_address

# Sections that are parameters of the training pipeline; `data` comes with the published version of the images.
TRAINING_SECTIONS = (
    "image",
    "validate",
    "synthesize",
    "teacher",
    "model",
    "distill",
    "fa",
    "evaluate",
    "export",
    "register",
    "promote",
)


# Settings that may name a folder or file of this machine, and what null stands for.
_OWN = {("synthesize", "textures"): "the built-in ones", ("teacher", "weights"): "the pinned file"}


def own_files(config: LineConfig) -> dict[tuple[str, str], str]:
    """Section and name of the settings that name a folder or file which no container has, and its path as written."""
    given = {(section, name): getattr(getattr(config, section), name) for section, name in _OWN}
    return {setting: path for setting, path in given.items() if path is not None and not _is_mounted(path)}


def _is_mounted(path: str) -> bool:
    inside = PurePosixPath(path)
    return is_address(path) or (inside.is_relative_to(WEIGHTS) and ".." not in inside.parts)


def training_pipeline_name(config: LineConfig) -> str:
    """Which training pipeline the line's resources ask for."""
    return "training-gpu" if config.resources.gpus else "training-cpu"


def training_arguments(
    config: LineConfig, digests: Mapping[str, str], data_revision: str = "latest", force: bool = False
) -> dict[str, Any]:
    """Arguments of the training pipeline.

    ``digests``: what the images hold, by their names in :class:`Images`, so that the orchestrator's cache
    notices new code behind an old name; see :func:`digests_of`.

    Raises:
        UserError: a setting names a folder or file that no container has.
    """
    for (section, name), path in own_files(config).items():
        raise UserError(
            f"line {config.name}: {section}.{name}: `{path}` is in no container of the pipeline; copy it into the "
            f"volume stlm-weights and set it to {WEIGHTS}/{PurePosixPath(path).name}, or to null for "
            f"{_OWN[section, name]}"
        )
    sections = config.model_dump(mode="json", by_alias=True)
    resources = config.resources
    return {
        "line": config.name,
        "profile": config.profile,
        **{section: as_parameter(sections[section]) for section in TRAINING_SECTIONS},
        **{f"{image}_image": digests[image] for image in ("data", "serve", "launch")},
        "train_image": digests["train_cuda" if resources.gpus else "train"],
        "data_revision": data_revision,
        "force": force,
        "automatic": config.promote.automatic,
        "shards": [{"index": index, "count": resources.shards} for index in range(resources.shards)],
        "data_cpu": resources.data.cpu,
        "data_memory": resources.data.memory,
        "train_cpu": resources.train.cpu,
        "train_memory": resources.train.memory,
        "serve_cpu": resources.serve.cpu,
        "serve_memory": resources.serve.memory,
        "gpus": resources.gpus,
        "gpu_type": resources.gpu_type,
    }


def promotion_arguments(config: LineConfig, by: str, reason: str = "") -> dict[str, Any]:
    """Arguments of the promotion pipeline."""
    sections = config.model_dump(mode="json", by_alias=True)
    return {
        "line": config.name,
        **{section: as_parameter(sections[section]) for section in ("data", "promote", "register")},
        "by": by,
        "reason": reason,
        "serve_cpu": config.resources.serve.cpu,
        "serve_memory": config.resources.serve.memory,
    }


def digests_of(images: Images) -> dict[str, str]:
    """What stands for the content of the images: the digest of a reference that has one.

    A tag says nothing of what is behind it, so it is told apart by the code of this checkout, which it should hold.
    """
    return {
        name: reference.rpartition("@")[2] if "@" in reference else f"{reference} {code_version()}"
        for name, reference in vars(images).items()
    }
