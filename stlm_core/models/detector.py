"""The detector as it ships: camera pixels in; image score, anomaly map and decision out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic
from stlm_core.models.aggregation import FeatureAggregation
from stlm_core.models.feature_memory import FeatureMemory
from stlm_core.models.preprocessing import Normalisation, Preprocess
from stlm_core.models.pyramid_decoder import PyramidDecoder
from stlm_core.models.sam_checkpoint import load_strict
from stlm_core.models.teacher_stream import PyramidAggregation, TeacherStreams
from stlm_core.models.tiny_vit import Stem
from stlm_core.models.two_stream import StreamFeatures, TwoStreamModel

MapSource = Literal["fa", "tlm", "fa-alone"]
PlainStream = Literal["student", "teacher"]
Aggregation = Literal["agreement", "decoder"]
RAW_LIMIT = 1e-6  # raw scores are kept this far from 0 and 1 before the logit
_JUST_OVER_HALF = 0.5 + 2.0**-24  # the float32 next to 0.5
_METADATA_KEY = "stlm"


@dataclass(frozen=True)
class DetectorFacts:
    """What is needed to rebuild a detector around its weights.

    ``size``: side of the network input, pixels; ``discrepancy_skip``: see
    :class:`~stlm_core.models.aggregation.FeatureAggregation`; ``plain_stream``: a student as in the paper, or the
    teacher itself, see :mod:`stlm_core.models.teacher_stream`; ``teacher``: name and weight digest, for the record;
    ``aggregation``: the paper's, or :mod:`stlm_core.models.pyramid_decoder`, which needs no ``denoising`` stream;
    ``memory``: vectors in the :class:`~stlm_core.models.feature_memory.FeatureMemory`, 0 for none; ``rotation``: how
    parts were turned in training, as set or found, for the record, "" if not known.
    """

    size: int
    stem: Stem
    normalisation: Normalisation
    teacher: str = ""
    teacher_sha256: str = ""
    discrepancy_skip: bool = True
    plain_stream: PlainStream = "student"
    aggregation: Aggregation = "agreement"
    denoising: bool = True
    memory: int = 0
    rotation: str = field(default="", compare=False)  # a detector of another pose is built alike


def asks_memory(facts: DetectorFacts, map_source: MapSource) -> bool:
    """Whether a detector's map depends on its memory."""
    return facts.memory > 0 and (map_source == "fa" or (map_source == "tlm" and not facts.denoising))


class Detector(nn.Module):
    """uint8 (N, H, W, 3) RGB of any H and W to raw image scores (N,) and anomaly maps (N, H, W), in [0, 1].

    The image score is the mean of the ``top_pixels`` largest pixels of a map at network size (paper section
    3.4), so it does not depend on H and W.

    The map comes from FA; where there is a memory, from the mean of FA's logits and the memory's standardised distance,
    weighted by the memory's share: one for the map that is shown, one for the map that is scored (decision 0019).
    With ``map_source`` "fa-alone" the memory is not asked; with "tlm" FA is not: the map is then the streams'
    discrepancy over its largest possible value, or without a denoising stream the memory's distance.
    """

    def __init__(self, facts: DetectorFacts, top_pixels: int = 100, map_source: MapSource = "fa") -> None:
        super().__init__()
        self.facts = facts
        self.top_pixels = min(top_pixels, facts.size**2)
        self.map_source = map_source
        self.preprocess = Preprocess(facts.size, facts.normalisation)
        self.streams: TwoStreamModel | TeacherStreams
        self.aggregation: FeatureAggregation | PyramidDecoder
        if facts.plain_stream == "teacher":
            self.streams = TeacherStreams(facts.normalisation, facts.denoising, facts.memory)
            self.aggregation = (
                PyramidDecoder(facts.denoising)
                if facts.aggregation == "decoder"
                else PyramidAggregation(facts.discrepancy_skip)
            )
        else:
            self.streams = TwoStreamModel(facts.stem)
            self.aggregation = FeatureAggregation(facts.discrepancy_skip)

    @property
    def memory(self) -> FeatureMemory | None:
        """The memory of the good parts' features, where the detector has one."""
        return self.streams.memory if isinstance(self.streams, TeacherStreams) else None

    def grid_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, S, S) to the anomaly map on the feature grid and the map that the image score is
        read from, (N, h, w) in [0, 1] each; one and the same unless FA and a memory are both asked."""
        features = self.streams(x)
        if self.map_source == "tlm":
            one = (
                self.streams.anomaly_map(features)
                if features.denoising
                else self._unfamiliar(features, (self.facts.size // 2,) * 2).sigmoid()
            )
            return one, one
        logits: Tensor = self.aggregation(features)
        if self.map_source == "fa" and (memory := self.memory) is not None:
            ahead = self._unfamiliar(features, logits.shape[-2:]) - logits
            shown = logits + memory.map_share * ahead + memory.map_shift
            return shown.sigmoid(), (logits + memory.share * ahead).sigmoid()
        alone = logits.sigmoid()
        return alone, alone

    def opinions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, S, S) to FA's logits and the memory's standardised distance, (N, h, w) each.

        Raises:
            UserError: there is no memory.
        """
        features = self.streams(x)
        logits: Tensor = self.aggregation(features)
        return logits, self._unfamiliar(features, logits.shape[-2:])

    def remembered_maps(self, image: Tensor) -> list[Tensor]:
        """Images (N, H, W, 3) RGB to the teacher's maps that a memory compares."""
        assert isinstance(self.streams, TeacherStreams)
        return self.streams.remembered(self.streams(self.preprocess(image)))

    def _unfamiliar(self, features: StreamFeatures, side: Sequence[int]) -> Tensor:
        """The memory's standardised distance map at ``side``, (N, h, w)."""
        if not isinstance(self.streams, TeacherStreams) or self.streams.memory is None:
            raise UserError("evaluate.map_source: tlm needs a second stream or a memory; this detector has neither")
        unfamiliar: Tensor = self.streams.memory(self.streams.remembered(features), side)
        return unfamiliar

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        shown, scored = self.grid_maps(self.preprocess(image))
        at_network_size = upsample(scored[:, None], (self.facts.size, self.facts.size))
        score = at_network_size.flatten(1).topk(self.top_pixels).values.mean(1)
        return score, upsample(shown[:, None], (image.shape[1], image.shape[2]))[:, 0]


def upsample(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of (N, 1, h, w) to (N, 1, *size), half-pixel centres."""
    return F.interpolate(grid, size, mode="bilinear", align_corners=False)


class ShippedDetector(nn.Module):
    """A detector with its operating point: score (N,) calibrated to [0, 1], map (N, H, W), decision (N,) bool.

    score = sigmoid((logit(raw) - logit(raw_threshold)) * scale), so the threshold on the score is 0.5. The decision
    compares raw scores, and where rounding would put a score on the wrong side of 0.5 it is held on the right one:
    is_anomalous, raw > raw_threshold and score > 0.5 are one and the same.
    """

    def __init__(self, detector: Detector, raw_threshold: float, scale: float) -> None:
        super().__init__()
        self.detector = detector
        self.raw_threshold = float(raw_threshold)
        limited = min(max(raw_threshold, RAW_LIMIT), 1 - RAW_LIMIT)
        self.offset = float(torch.tensor(limited, dtype=torch.float64).logit())
        self.scale = float(scale)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw, anomaly_map = self.detector(image)
        limited = raw.clamp(RAW_LIMIT, 1 - RAW_LIMIT)
        score = ((torch.log(limited / (1 - limited)) - self.offset) * self.scale).sigmoid()
        is_anomalous = raw > self.raw_threshold
        score = torch.where(is_anomalous, score.clamp_min(_JUST_OVER_HALF), score.clamp_max(0.5))
        return score, anomaly_map, is_anomalous


def save_detector(path: Path, detector: Detector) -> None:
    """Write weights and facts as safetensors.

    Raises:
        UserError: the folder cannot be written, or the disk is full; an old file stays.
    """
    _write(path, detector, detector.facts)


def load_detector(path: Path, top_pixels: int = 100, map_source: MapSource = "fa") -> Detector:
    """Rebuild a detector in eval mode.

    Raises:
        UserError: the file is missing, damaged, or not one of ours.
    """
    facts, weights = _read(path)
    detector = Detector(facts, top_pixels, map_source)
    _load(detector, weights, path)
    return detector.eval()


def save_streams(path: Path, detector: Detector) -> None:
    """Write the streams' weights alone, with the detector's facts.

    Raises:
        UserError: the folder cannot be written, or the disk is full; an old file stays.
    """
    _write(path, detector.streams, detector.facts)


def load_streams(path: Path, detector: Detector) -> None:
    """Load what :func:`save_streams` wrote into the detector's streams.

    Raises:
        UserError: the file is missing, damaged, or belongs to a detector of other facts.
    """
    facts, weights = _read(path)
    if facts != detector.facts:
        raise UserError(f"{path}: made for {facts}, but the configuration asks for {detector.facts}; distill again")
    _load(detector.streams, weights, path)


def _load(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    try:
        load_strict(module, weights, str(path))
    except UserError as error:
        raise UserError(f"{error}; if an earlier version made it, run the step that wrote it with --force") from None


def _write(path: Path, module: nn.Module, facts: DetectorFacts) -> None:
    weights = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    # Not safetensors' own save_file: what it makes can be read by nobody but its user.
    write_bytes_atomic(path, save(weights, {_METADATA_KEY: json.dumps(asdict(facts), sort_keys=True)}))


def _read(path: Path) -> tuple[DetectorFacts, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        return DetectorFacts(**json.loads(metadata[_METADATA_KEY])), weights
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of this project's weights: {error}") from None


def count_parameters(module: nn.Module) -> int:
    """Number of parameter scalars; buffers such as running statistics do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameters_used(detector: Detector) -> int:
    """Parameter scalars of the networks that the detector's map depends on: with ``map_source`` "tlm" the streams'."""
    return count_parameters(detector.streams if detector.map_source == "tlm" else detector)
