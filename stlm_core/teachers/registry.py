"""The known teachers, and how a configuration becomes one of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from stlm_core.errors import UserError
from stlm_core.models.efficientnet import PYRAMID
from stlm_core.settings import ModelConfig, TeacherConfig
from stlm_core.teachers.base import Teacher, TeacherFacts
from stlm_core.teachers.efficientnet import load_efficientnet
from stlm_core.teachers.sam_tiny import load_tiny_sam
from stlm_core.teachers.sam_vit import load_sam_vit
from stlm_core.weights.catalog import lookup
from stlm_core.weights.store import check_sha256, expected_sha256, locate

_SAM_MAPS = ("image embedding", "image tokens of the two-way transformer, null prompt")

TEACHERS: dict[str, TeacherFacts] = {
    facts.name: facts
    for facts in (
        TeacherFacts(
            name="lite_medsam",
            weights="lite_medsam",
            architecture="TinyViT-5M with a 1x1 patch embedding, SAM two-way transformer",
            input_size=256,
            multiple=4,
            normalisation="unit",
            maps=_SAM_MAPS,
            stem="conv1x1",
        ),
        TeacherFacts(
            name="mobile_sam",
            weights="mobile_sam",
            architecture="TinyViT-5M with a 3x3 stride-2 patch embedding, SAM two-way transformer",
            input_size=1024,
            multiple=16,
            normalisation="sam",
            maps=_SAM_MAPS,
            stem="conv3x3",
        ),
        *(
            TeacherFacts(
                name=f"sam_{variant}",
                weights=f"sam_{variant}",
                architecture=f"SAM {variant}, two-way transformer (segment-anything package)",
                input_size=1024,
                multiple=None,  # its absolute position embedding fits one size
                normalisation="sam",
                maps=_SAM_MAPS,
            )
            for variant in ("vit_b", "vit_l", "vit_h")
        ),
        TeacherFacts(
            name="efficientnet_lite0",
            weights="efficientnet_lite0",
            architecture="EfficientNet-Lite0 up to stride 16",
            input_size=256,
            multiple=16,
            normalisation="efficientnet_lite",
            maps=("stride 8, 40 to 256 channels", "stride 16 brought to stride 8, 112 to 256 channels"),
            pyramid=PYRAMID,
        ),
    )
}


_LOADERS: dict[str, Callable[[Path], nn.Module]] = {
    "lite_medsam": partial(load_tiny_sam, stem="conv1x1"),
    "mobile_sam": partial(load_tiny_sam, stem="conv3x3"),
    "sam_vit_b": partial(load_sam_vit, variant="vit_b"),
    "sam_vit_l": partial(load_sam_vit, variant="vit_l"),
    "sam_vit_h": partial(load_sam_vit, variant="vit_h"),
    "efficientnet_lite0": load_efficientnet,
}


def teacher_facts(name: str) -> TeacherFacts:
    """The registry's entry.

    Raises:
        UserError: the name is unknown; the message lists the known ones.
    """
    try:
        return TEACHERS[name]
    except KeyError:
        raise UserError(f"teacher.name: no teacher `{name}` (known: {', '.join(TEACHERS)})") from None


def teacher_input_size(config: TeacherConfig) -> int:
    """Side of the image that the teacher sees, pixels.

    Raises:
        UserError: the teacher cannot see images of ``teacher.input_size``.
    """
    facts = teacher_facts(config.name)
    size = facts.input_size if config.input_size is None else config.input_size
    if facts.multiple is None and size != facts.input_size:
        raise UserError(f"teacher.input_size: {facts.name} sees images of {facts.input_size} px only, not {size}")
    if facts.multiple is not None and size % facts.multiple:
        raise UserError(f"teacher.input_size: {size} is not a multiple of {facts.multiple}, as {facts.name} needs")
    return size


def plain_teacher(config: TeacherConfig, image_size: int) -> TeacherConfig:
    """The settings of a teacher that is the plain stream: it sees what the network sees, ``image_size`` pixels a side.

    Raises:
        UserError: the teacher is too large for that, it is set to see images of another size, or cannot see this one.
    """
    facts = teacher_facts(config.name)
    if not facts.pyramid:
        able = ", ".join(name for name, facts in TEACHERS.items() if facts.pyramid)
        raise UserError(f"model.plain_stream: `{config.name}` cannot be the plain stream itself; {able} can")
    if config.input_size not in (None, image_size):
        raise UserError(
            f"teacher.input_size: {config.input_size}, but as the plain stream the teacher sees images of image.size, "
            f"{image_size}; leave it null"
        )
    if facts.multiple is not None and image_size % facts.multiple:
        raise UserError(f"image.size: {image_size} is not a multiple of {facts.multiple}, as {facts.name} needs")
    return config.model_copy(update={"input_size": image_size})


def needed_weights(teacher: TeacherConfig, model: ModelConfig) -> list[str]:
    """Entries of the weights catalogue that a training reads; not those that ``teacher.weights`` stands in for."""
    names = [] if teacher.weights is not None else [teacher.name]
    if model.init not in ("teacher", "random", teacher.name):
        names.append(model.init)
    return [teacher_facts(name).weights for name in names]


def locate_weights(config: TeacherConfig, weights_dir: Path, root: Path = Path()) -> Path:
    """The teacher's weights file; ``root``: the folder that a relative ``teacher.weights`` starts from.

    Raises:
        UserError: unknown teacher, or the file does not exist; the message has the command that gets it.
    """
    entry = lookup(teacher_facts(config.name).weights)
    return locate(entry, weights_dir, config.weights, config.weights_sha256, root=root)


def load_teacher(config: TeacherConfig, weights_dir: Path, root: Path = Path()) -> Teacher:
    """The configured teacher on the CPU with its verified weights, frozen and in eval mode.

    Raises:
        UserError: unknown teacher, impossible input size, missing weights, weights whose sha256 is neither the
            pinned one nor ``teacher.weights_sha256``, or weights of another architecture.
    """
    facts = teacher_facts(config.name)
    size = teacher_input_size(config)
    path = locate_weights(config, weights_dir, root)
    entry = lookup(facts.weights)
    expected = expected_sha256(entry, config.weights_sha256)
    remedy = (
        f"fetch it again with `stlm weights fetch {entry.name}`"
        if config.weights is None
        else "if this is the file you mean, set teacher.weights_sha256 to its hash"
    )
    check_sha256(path, expected, remedy)
    return Teacher(facts, _LOADERS[facts.name](path), expected, size)
