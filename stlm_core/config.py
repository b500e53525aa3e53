"""One frozen, validated configuration tree, built from ``params.yaml``; the only reader of that file.

``params.yaml`` holds three layers of the same sections: ``defaults``, ``profiles.<name>`` and
``lines.<name>``. A line's configuration is the deep merge of the three, in that order.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from stlm_core.errors import UserError
from stlm_core.promote_settings import PromoteConfig
from stlm_core.settings import (
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    ImageConfig,
    ModelConfig,
    RegisterConfig,
    ResourcesConfig,
    ScheduleConfig,
    SynthesizeConfig,
    TeacherConfig,
    ValidateConfig,
)
from stlm_core.settings_section import NO_BEARING, NO_TRACE, Section
from stlm_core.training_settings import DistillConfig, FaConfig

LINE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
SECTIONS = (
    "image",
    "data",
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
    "resources",
    "schedule",
)
# Those that a model depends on; the others say what is done with it and where.
TRAINED_SECTIONS = tuple(name for name in SECTIONS if name not in ("register", "promote", "resources", "schedule"))


def decides_the_model(setting: str) -> bool:
    """Whether another value of the setting with this dotted name may give another model."""
    return setting.partition(".")[0] in TRAINED_SECTIONS and setting not in NO_BEARING


# Those that the bank of images and pseudo anomalies depends on, and those of the teacher's features.
BANK_SECTIONS = ("image", "data", "synthesize")
CACHED_SECTIONS = ("image", "teacher", "model")

# Those that a detector's weights depend on, and those of its streams alone.
STREAM_SECTIONS = ("image", "synthesize", "teacher", "model", "distill")
DETECTOR_SECTIONS = ("image", "synthesize", "teacher", "model", "fa")

# Those that a detector is judged by; seeds of the training are shown in the report.
EVALUATED_SECTIONS = ("data", "distill", "fa", "evaluate")


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which the last would win without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before any value is made of it: merging (`<<`) then adds keys that the mapping itself may have again.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key `{key.value}` is there twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


class LineConfig(Section):
    """Everything one line's pipeline reads. ``root``: folder that relative paths start from."""

    name: str
    profile: str
    root: Path
    image: ImageConfig
    data: DataConfig
    validate_: ValidateConfig = Field(alias="validate")
    synthesize: SynthesizeConfig
    teacher: TeacherConfig
    model: ModelConfig
    distill: DistillConfig
    fa: FaConfig
    evaluate: EvaluateConfig
    export: ExportConfig
    register_: RegisterConfig = Field(alias="register")
    promote: PromoteConfig
    resources: ResourcesConfig
    schedule: ScheduleConfig

    def resolve(self, path: str) -> Path:
        """``path`` as written in ``params.yaml``, against the folder of that file.

        Raises:
            UserError: no file can have that path, or ``~name`` is nobody's home.
        """
        try:
            return (self.root / Path(path).expanduser()).resolve()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"line {self.name}: {path!r} is not a path: {error}") from None

    def section_hash(self, *sections: str) -> str:
        """sha256 hex digest of the named sections' values that a step's outputs depend on."""
        return self._hash(sections, NO_TRACE)

    def model_hash(self) -> str:
        """sha256 hex digest of all settings that :func:`decides_the_model` names."""
        return self._hash(TRAINED_SECTIONS, NO_BEARING)

    def _hash(self, sections: Collection[str], but: Collection[str]) -> str:
        dumped = self.model_dump(mode="json", by_alias=True)
        chosen = {
            section: {name: value for name, value in dumped[section].items() if f"{section}.{name}" not in but}
            for section in sections
        }
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def deep_merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """``override`` laid over ``base``; mappings merge key by key, anything else replaces."""
    merged = dict(base)
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def load_params(params: Path) -> dict[str, Any]:
    """The parsed ``params.yaml``.

    Raises:
        UserError: the file is missing, is not YAML, has a key twice, lacks ``defaults``, ``profiles`` or ``lines``,
            or one of the names in them is not a text.
    """
    try:
        text = params.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{params}: no such file; run from the project folder or pass --params") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{params}: cannot be read: {error}") from None
    try:
        tree: dict[str, Any] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{params}: not valid YAML{line}: {_one_line(reason)}") from None
    except (ValueError, AttributeError, RecursionError) as error:  # a number or date that is none, or too many brackets
        raise UserError(f"{params}: not valid YAML: {_one_line(str(error))}") from None
    for key in ("defaults", "profiles", "lines"):
        if not isinstance(tree, dict) or not isinstance(tree.get(key), dict):
            raise UserError(f"{params}: needs a mapping `{key}` at the top level")
        for name in tree[key]:
            if not isinstance(name, str):
                raise UserError(f"{params}: {key}: the name {name} is not a text; put it in quotes")
    return tree


def line_names(params: Path) -> list[str]:
    """Names of all lines in ``params.yaml``, in file order."""
    return list(load_params(params)["lines"])


def load_line(params: Path, line: str) -> LineConfig:
    """The merged, validated configuration of one line.

    Raises:
        UserError: unknown line or profile, a setting with a wrong name, type or range, or two that exclude each
            other; the message names the setting by its dotted path.
    """
    tree = load_params(params)
    if line not in tree["lines"]:
        known = _one_line(", ".join(tree["lines"])) or "none"
        raise UserError(f"{params}: no line `{line}` (known: {known}); add it with `stlm lines add`")
    if not LINE_NAME.fullmatch(line):
        raise UserError(f"{params}: line name `{line}` must be lower-case letters, digits, - and _, at most 64")
    own = _mapping(params, f"lines.{line}", tree["lines"][line])
    profile = own.get("profile", "fast")
    if not isinstance(profile, str) or profile not in tree["profiles"]:
        known = ", ".join(tree["profiles"])
        raise UserError(
            f"{params}: lines.{line}.profile: no profile `{_one_line(str(profile))}` (known: {_one_line(known)})"
        )
    merged: dict[str, Any] = {section: {} for section in SECTIONS}
    for layer in (tree["defaults"], _mapping(params, f"profiles.{profile}", tree["profiles"][profile]), own):
        merged = deep_merge(merged, layer)
    merged.update(name=line, profile=profile, root=params.resolve().parent)
    return _validated(merged, SECTIONS, f"{params}: lines.{line}")


def as_parameter(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section's settings as the parameter of a pipeline, whose structs hold no null: what is null is listed by its
    dotted name under ``null`` instead."""
    nulls: list[str] = []

    def kept(value: Mapping[str, Any], where: str) -> dict[str, Any]:
        nulls.extend(f"{where}{key}" for key, inner in value.items() if inner is None)
        return {
            key: kept(inner, f"{where}{key}.") if isinstance(inner, dict) else inner
            for key, inner in value.items()
            if inner is not None
        }

    return kept(section, "") | ({"null": nulls} if nulls else {})


def from_parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    """The section that :func:`as_parameter` made ``parameter`` of."""
    section = {key: dict(value) if isinstance(value, dict) else value for key, value in parameter.items()}
    for name in section.pop("null", []):
        *groups, key = str(name).split(".")
        target = section
        for group in groups:
            target = target.setdefault(group, {})
        target[key] = None
    return section


def line_from_sections(line: str, sections: Mapping[str, Any], root: Path) -> LineConfig:
    """The configuration of a line from its merged sections, as a container of a pipeline gets them.

    A section is as :func:`as_parameter` made it. Those that are missing or None have their defaults; of ``data``, that
    is a path that leads nowhere.

    Raises:
        UserError: a line's name that cannot be one, a setting with a wrong name, type or range, or two that exclude
            each other.
    """
    if not LINE_NAME.fullmatch(line):
        raise UserError(f"line name `{_one_line(line)}` must be lower-case letters, digits, - and _, at most 64")
    given: dict[str, Any] = {section: from_parameter(sections.get(section) or {}) for section in SECTIONS}
    known = [section for section, values in given.items() if values]
    given["data"] = given["data"] or {"path": "-"}
    merged = {**given, "name": line, "profile": sections.get("profile") or "", "root": root}
    return _validated(merged, known, f"line {line}")


def _validated(merged: dict[str, Any], known: Collection[str], where: str) -> LineConfig:
    """The configuration; only settings of the ``known`` sections can exclude each other."""
    try:
        config = LineConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        setting = _one_line(".".join(str(part) for part in first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"{where}: `{setting}`: {_one_line(first['msg'])}{more}") from None
    _refuse_contradictions(config, known, where)
    return config


def _refuse_contradictions(config: LineConfig, known: Collection[str], where: str) -> None:
    # A container gets some sections only: the defaults that stand for the others are not what the line has.
    if {"model", "fa"} <= {*known} and config.fa.joint_finetune and not config.model.denoising_stream:
        raise UserError(
            f"{where}: `fa.joint_finetune`: true trains the denoising stream on, and model.denoising_stream: false "
            "leaves it out; set fa.joint_finetune: false"
        )
    if {"data", "synthesize"} <= {*known} and config.synthesize.fresh and not config.data.validation_fraction:
        raise UserError(
            f"{where}: `data.validation_fraction`: 0 keeps no images to judge the training by, and synthesize.fresh: "
            "true keeps pseudo anomalies of these only; raise data.validation_fraction"
        )


def _mapping(params: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise UserError(f"{params}: {_one_line(where)}: not a mapping of settings")
    return value or {}


def _one_line(text: str) -> str:
    """``text`` with line breaks and other control characters escaped, and not too long for a sentence."""
    shown = text if len(text) <= 300 else f"{text[:300]}..."
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)
