"""What is compared: settings over those of a line, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.accuracy.lines import PROFILES
from stlm_core.config import SECTIONS
from stlm_core.errors import UserError

_WEIGHTS_OF = "weights_of"


@dataclass(frozen=True)
class Configuration:
    """``settings``: sections of ``params.yaml``, and the profile under them. ``weights_of``: the configuration whose
    trained weights are evaluated, instead of training."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    weights_of: str | None = None


_KINDS: Sequence[str] = PROFILES["fast"]["synthesize"]["families"]

CONFIGURATIONS: Mapping[str, Configuration] = {
    "default": Configuration(),
    "decoder-alone": Configuration({"evaluate": {"map_source": "fa-alone"}}, weights_of="default"),
    "memory-alone": Configuration({"evaluate": {"map_source": "tlm"}}, weights_of="default"),
    "balanced": Configuration({"profile": "balanced"}),
    "best": Configuration({"profile": "best"}),
    # One change to the default each.
    "perlin": Configuration({"synthesize": {"families": ["perlin"]}}),
    "small-defects": Configuration({"synthesize": {"families": [kind for kind in _KINDS if kind != "perlin"]}}),
    "and-finish": Configuration({"synthesize": {"families": [*_KINDS, "finish"]}}),
    "kept-variants": Configuration({"synthesize": {"fresh": False}}),
    "same-camera": Configuration({"synthesize": {"light": 0.1, "shift": 0.0, "blur": 0.0, "jpeg_quality": 100}}),
    "same-light": Configuration({"synthesize": {"light": 0.0}}),
    "same-pose": Configuration({"synthesize": {"rotation": "none"}}),
    "built-in-textures": Configuration({"synthesize": {"textures": None}}),
    "half-steps": Configuration({"fa": {"steps": 500}}),
    "paper-loss": Configuration({"fa": {"focal_gamma": 4.0, "focal_weight": 1.0, "dice_weight": 0.0}}),
    "and-student": Configuration({"model": {"denoising_stream": True}, "distill": {"steps": 1000}}),
    # Other structures.
    "denoising": Configuration({"profile": "denoising"}),
    "denoising-alone": Configuration(
        {"profile": "denoising", "evaluate": {"map_source": "tlm"}}, weights_of="denoising"
    ),
    "two-students": Configuration({"profile": "two-students"}),
    "int8-cache": Configuration({"profile": "two-students", "teacher": {"cache_dtype": "int8"}}),
    "uncentred": Configuration({"profile": "two-students", "model": {"centre_features": False}}),
    "no-skip": Configuration({"profile": "two-students", "model": {"discrepancy_skip": False}}),
    "random-start": Configuration({"profile": "two-students", "model": {"init": "random"}}),
    # FA on frozen streams: these get the steps that joint training would have given them.
    "staged": Configuration(
        {
            "profile": "two-students",
            "distill": {"steps": 280, "validate_every": 70},
            "fa": {"joint_finetune": False},
        }
    ),
}


def read_configurations(path: Path) -> dict[str, Configuration]:
    """Configurations of a YAML file: a name and its settings each, which may name ``weights_of`` another one.

    Raises:
        UserError: not readable, not such a file, or a section that a line does not have.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(tree, dict) or not all(isinstance(settings, dict | None) for settings in tree.values()):
        raise UserError(f"{path}: needs names with settings under each")
    found = {}
    for name, settings in tree.items():
        own = dict(settings or {})
        weights_of = own.pop(_WEIGHTS_OF, None)
        if unknown := sorted(set(own) - {*SECTIONS, "profile"}):
            raise UserError(f"{path}: {name}: unknown sections {', '.join(unknown)}")
        found[str(name)] = Configuration(own, weights_of)
    return found
