"""What the two training steps share: the detector to start from, and the data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from stlm_core.cache.store import FeatureCache
from stlm_core.config import CACHED_SECTIONS, LineConfig
from stlm_core.errors import UserError
from stlm_core.files import sha256_file, write_json_atomic
from stlm_core.models.detector import Detector, DetectorFacts, MapSource
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.sam_checkpoint import build_sam_parts
from stlm_core.models.teacher_stream import TeacherStreams
from stlm_core.models.tiny_vit import TinyViT
from stlm_core.seeding import derive_seed
from stlm_core.steps.contract import read_manifest
from stlm_core.steps.provenance import other_inputs, trained_on
from stlm_core.steps.weights import weights_folder
from stlm_core.steps.workspace import Workspace
from stlm_core.synthesis.bank import Bank
from stlm_core.synthesis.pose import read_pose
from stlm_core.teachers.registry import load_teacher, locate_weights, plain_teacher, teacher_facts
from stlm_core.training.distributed import Ranks
from stlm_core.training.fresh import FreshViews
from stlm_core.training.loop import Outcome
from stlm_core.training.pairs import TrainingPairs

SELECTION_FILE = "selection.json"


def training_inputs(config: LineConfig, workspace: Workspace) -> dict[str, Path]:
    """Files whose content decides what a training step makes."""
    found = {name: workspace.need(step, file) for name, (step, file) in trained_on(config).items()}
    return {**found, "teacher": locate_weights(config.teacher, weights_folder(config.root), config.root)}


def open_data(config: LineConfig, workspace: Workspace, ranks: Ranks) -> tuple[Bank, TrainingPairs]:
    """The bank and the training pairs over it, with every cached feature's checksum compared, once for all ranks.

    Raises:
        UserError: bank or cache are missing, damaged, or do not belong together.
    """
    bank = Bank.open(workspace.folder("synthesize"))
    _require_features_of_now(config, workspace)
    cache = FeatureCache.open(workspace.folder("cache-teacher"), verify=ranks.main)
    ranks.wait()
    settings, plain = config.synthesize, config.model.plain_stream == "teacher"
    if settings.fresh and not plain:
        raise UserError(
            "synthesize.fresh: needs model.plain_stream: teacher, because the teacher must see every fresh view"
        )
    fresh = FreshViews(bank.folder, settings) if settings.fresh else None
    return bank, TrainingPairs(bank, cache, "train", settings.probability, clean_only=plain, fresh=fresh)


def _require_features_of_now(config: LineConfig, workspace: Workspace) -> None:
    folder, made_from = workspace.folder("cache-teacher"), training_inputs(config, workspace)
    made = read_manifest(folder)
    of_another = [name for name in ("bank", "teacher") if other_inputs(made, {name: made_from[name]})]
    if made.get("config") != config.section_hash(*CACHED_SECTIONS):
        of_another.append("size or with another setting")
    if of_another:
        raise UserError(
            f"{folder}: features of another {of_another[0]} than the present one; run `stlm cache-teacher` again"
        )


def new_detector(config: LineConfig, workspace: Workspace, map_source: MapSource, seed: int) -> Detector:
    """A detector whose streams start as ``model.init`` says; what starts at random follows from ``seed``.

    Raises:
        UserError: the bank has no pose, ``model.init`` asks for the weights of a teacher that is not a TinyViT, or
            ``model.plain_stream`` for a teacher that cannot be one.
    """
    source = config.teacher.name if config.model.init == "teacher" else config.model.init
    facts = teacher_facts(config.teacher.name if source == "random" else source)
    if facts.stem is None and source != "random":
        raise UserError(f"model.init: `{source}` is not a TinyViT; set model.init to lite_medsam, mobile_sam or random")
    weights = locate_weights(config.teacher, weights_folder(config.root), config.root)
    torch.manual_seed(derive_seed("detector", seed))
    described = DetectorFacts(
        size=config.image.size,
        stem=config.model.stem,
        normalisation=facts.normalisation,
        discrepancy_skip=config.model.discrepancy_skip,
        plain_stream=config.model.plain_stream,
        aggregation=config.model.aggregation,
        denoising=config.model.denoising_stream,
        memory=config.model.memory,
        teacher=config.teacher.name,
        teacher_sha256=sha256_file(weights),
        rotation=read_pose(workspace.folder("synthesize")).policy,
    )
    detector = Detector(described, map_source=map_source)
    if isinstance(detector.streams, TeacherStreams):
        starts = source != "random" and config.model.denoising_stream
        encoder = _sam_parts(config, source)[0] if starts else None
        teacher = load_teacher(
            plain_teacher(config.teacher, config.image.size), weights_folder(config.root), config.root
        )
        detector.streams.start_from(teacher.network.network, encoder)  # type: ignore[arg-type]
    elif source != "random":
        detector.streams.start_from(*_sam_parts(config, source))
    elif facts.stem is not None:  # the paper's reference: random encoders, the teacher's decoder
        detector.streams.decoder.load_state_dict(build_sam_parts(weights, facts.stem)[1].state_dict())
    return detector


def to_device(detector: Detector, device: torch.device) -> Detector:
    """``detector`` on ``device``, ready to be trained; a pyramid's convolutions with channels last, in which they take
    half the time, and its teacher folded."""
    if not isinstance(detector.streams, TeacherStreams):
        return detector.to(device)
    moved: Detector = detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.streams.hasten()
    return moved


def _sam_parts(config: LineConfig, name: str) -> tuple[TinyViT, PromptFreeDecoder]:
    stem = teacher_facts(name).stem
    assert stem is not None
    other = config.teacher.model_copy(update={"name": name, "weights": None, "weights_sha256": None})
    settings = config.teacher if name == config.teacher.name else other
    return build_sam_parts(locate_weights(settings, weights_folder(config.root), config.root), stem)


def write_selection(folder: Path, outcome: Outcome) -> None:
    """Record which step's weights were kept and why."""
    write_json_atomic(folder / SELECTION_FILE, asdict(outcome))
