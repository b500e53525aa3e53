"""The arguments of a pipeline's run, from a line's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.placement import Images
from stlm_core.config import LineConfig, as_parameter
from stlm_core.steps.contract import code_version

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


def training_pipeline_name(config: LineConfig) -> str:
    """Which training pipeline the line's resources ask for."""
    return "training-gpu" if config.resources.gpus else "training-cpu"


def training_arguments(
    config: LineConfig, digests: Mapping[str, str], data_revision: str = "latest", force: bool = False
) -> dict[str, Any]:
    """Arguments of the training pipeline.

    ``digests``: what the images hold, by their names in :class:`Images`, so that the orchestrator's cache
    notices new code behind an old name; see :func:`digests_of`.
    """
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
