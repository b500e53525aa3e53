"""The settings of a line, section by section: names, types, ranges and what they mean."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stlm_core.settings_section import Fraction, Section

# What a rule does; YAML reads a bare `off` as false.
Severity = Annotated[Literal["warn", "fail", "off"], BeforeValidator(lambda value: "off" if value is False else value)]
# `./images/` is `images`: what is published of a line names its files by one spelling, and so do its hashes.
PathText = Annotated[str, AfterValidator(lambda path: str(PurePosixPath(path)) if path else path)]
# Names of the kinds of pseudo anomaly in stlm_core.synthesis.families.
FamilyName = Literal["perlin", "patch", "paste", "scratch", "stain", "shade", "dent", "bend", "gap", "finish"]
# Names of the adapters in stlm_core.data.adapters.
Format = Literal[
    "mvtec",
    "mvtec_loco",
    "mpdd",
    "btad",
    "visa",
    "dagm",
    "kolektor",
    "kolektor2",
    "magnetic_tile",
    "elpv",
    "coco",
    "table",
    "folder",
]


class ImageConfig(Section):
    """What the network sees. ``size``: side of the square network input, pixels."""

    size: int = Field(256, ge=64, le=2048)


class DataConfig(Section):
    """Where a line's images are and how the good training images are divided.

    ``path`` is relative to the folder of ``params.yaml`` unless absolute. ``group_pattern`` is a regular
    expression with one capture group that finds the physical part in a file name; ``group_file`` is a CSV
    file with the columns ``path`` and ``group`` that names it for every image. Images of one part never fall on
    two sides of a split. ``format`` is the layout of the folder, ``category`` the product where it holds several.

    ``catalog`` is the list of the line's images that ``stlm lines add`` and ``update`` write; with it, nothing else in
    the folder belongs to the line, and every file must have the sha256 it had. ``catalog_sha256`` pins the list
    itself: a new one is a new version of the data. ``retrain_share``: new good images over those of the last training,
    from which `stlm lines update` says that training is due.
    """

    path: PathText
    format: Format = "mvtec"
    category: str | None = None
    catalog: PathText | None = None
    catalog_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    validation_fraction: Fraction = Field(0.10, ge=0, lt=0.5)
    calibration_fraction: Fraction = Field(0.20, gt=0, lt=0.5)
    group_pattern: str | None = None
    group_file: PathText | None = None
    license: str = "unknown"
    max_pixels: int = Field(100_000_000, ge=1)
    retrain_share: Fraction = Field(0.10, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _pattern_has_one_group(self) -> Self:
        if self.group_pattern is not None:
            try:
                groups = re.compile(self.group_pattern).groups
            except re.error as error:
                raise ValueError(f"group_pattern is not a regular expression: {error}") from None
            if groups != 1:
                raise ValueError("group_pattern needs exactly one capture group")
            if self.group_file is not None:
                raise ValueError("give group_pattern or group_file, not both")
        return self


class ValidateConfig(Section):
    """The rules a line's images must meet. Counts are images, sides are pixels, shares and similarities are of 1.

    ``min_contrast``: standard deviation of the luminance (0..1) under which an image counts as blank.
    ``max_aspect``: longer side over shorter side. ``max_mask_share``: share of an image that a mask may mark before
    it counts as inverted.

    ``near_duplicates`` says what the same photograph saved twice, once in training and once in test, does;
    ``near_duplicate_similarity`` is how alike two images must be, see :mod:`stlm_core.data.similarity`. ``drift`` says
    what good images unlike those the champion was trained on do; ``max_drift`` is a distance in standard deviations,
    ``max_outside`` the share of images that may lie outside the champion's range, see :mod:`stlm_core.data.drift`.

    ``unusable: quarantine`` leaves files that cannot be used out of the manifest and lists them, up to the share
    ``max_quarantined`` of all images; with ``fail`` the first of them stops the line.
    """

    min_train_images: int = Field(20, ge=1)
    min_test_good: int = Field(0, ge=0)
    min_test_defects: int = Field(0, ge=0)
    min_side: int = Field(32, ge=1)
    max_side: int | None = Field(None, ge=1)
    max_aspect: float | None = Field(None, ge=1)
    min_contrast: Fraction = Field(0.01, ge=0, lt=0.5)
    allowed_modes: tuple[str, ...] = ("L", "RGB")
    allow_mixed_modes: bool = False
    allow_duplicates_within_split: bool = True
    require_masks: bool = True
    max_mask_share: Fraction = Field(0.8, gt=0, le=1)
    near_duplicates: Severity = "warn"
    near_duplicate_similarity: Fraction = Field(0.87, ge=0.5, lt=1)
    drift: Severity = "warn"
    max_drift: float = Field(0.5, gt=0)
    max_outside: Fraction = Field(0.05, ge=0, lt=1)
    unusable: Literal["fail", "quarantine"] = "fail"
    max_quarantined: Fraction = Field(0.02, ge=0, lt=1)


class SynthesizeConfig(Section):
    """Pseudo anomalies (paper section 3.1).

    ``variants`` K per good image, all of them anomalous; ``probability`` with which the training sampler draws
    one of them instead of the clean view; ``beta_max`` upper end of the uniform blend factor;
    ``perlin_max_exponent`` the largest power of two of the noise scale per axis; ``perlin_threshold`` the noise,
    in [-1, 1], above which a pixel is anomalous; ``textures`` a folder of images, or null for the embedded
    procedural set; ``rotation`` the pose policy of the line: none, small (+-5 degrees), quarter turns, any, or auto,
    which finds out from the good images whether they are turned against each other (docs/decisions/0023).

    Beyond the paper (docs/decisions/0016): ``families`` are the kinds of anomaly that are drawn, of which ``perlin`` is
    the paper's and ``finish`` is in no profile (docs/decisions/0025); ``fresh`` draws a new pose, light and anomaly in
    every training step instead of keeping K variants, and gives validation a fifth of the textures, which training then
    does not use. ``fresh`` needs a teacher that is the plain stream.

    What the camera may change between two pictures of the same part, shown in fresh views and remembered by a memory
    (docs/decisions/0017): ``light``, the share by which brightness and contrast vary; ``shift``, share of the side;
    ``blur``, largest sigma of a Gaussian in pixels of the network's input; ``jpeg_quality``, the lowest.
    """

    variants: int = Field(4, ge=1, le=64)
    probability: Fraction = Field(0.5, gt=0, le=1)
    beta_max: Fraction = Field(0.8, ge=0, lt=1)
    perlin_max_exponent: int = Field(5, ge=0, le=8)
    perlin_threshold: float = Field(0.5, gt=0, lt=1)
    textures: str | None = None
    rotation: Literal["auto", "none", "small", "quarter", "any"] = "none"
    families: tuple[FamilyName, ...] = Field(("perlin",), min_length=1)
    fresh: bool = False
    light: Fraction = Field(0.0, ge=0, le=0.5)
    shift: Fraction = Field(0.0, ge=0, le=0.25)
    blur: float = Field(0.0, ge=0, le=8)
    jpeg_quality: int = Field(100, ge=10, le=100)
    seed: int = 0


class TeacherConfig(Section):
    """The frozen teacher. ``input_size``: side of the square image it sees, or null for its own size.

    ``weights``: null for the pinned file of the catalogue, or a path, or the ``https://`` or ``s3://`` address that
    ``stlm weights fetch --from`` got it from. ``weights_sha256``: the hash of a file that is not the pinned one.

    ``shard_views``: views in one file of the cache. ``cache_dtype``: how features are kept; int8, with one scale a
    vector, takes half the space of float16 and rounds more (docs/workstation.md).
    """

    name: str = "lite_medsam"
    input_size: int | None = Field(None, ge=32, le=2048)
    weights: str | None = None
    weights_sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")
    batch_size: int = Field(8, ge=1)
    shard_views: int = Field(64, ge=1)
    cache_dtype: Literal["float16", "int8"] = "float16"
    autocast: Literal["auto", "off", "bf16", "fp16"] = "auto"


class ModelConfig(Section):
    """The two streams.

    ``plain_stream``: a student that learns to repeat the teacher (the paper's), or the teacher itself where it is small
    enough to ship (efficientnet_lite0; beyond the paper). ``stem``: the patch embedding, MobileSAM's (stride 16 in all)
    or LiteMedSAM's (stride 4).
    ``init``: where the streams and the decoder start: the teacher's own weights (a TinyViT teacher only), those of a
    named TinyViT checkpoint, or ``random`` encoders as in the paper's reference, with a TinyViT teacher's decoder.
    ``centre_features`` compares features relative to the teacher's mean over the line's good images (beyond the paper).
    ``discrepancy_skip`` lets FA refine the streams' discrepancy instead of replacing it (beyond the paper).

    ``aggregation``: the paper's FA over the streams' agreement, or a decoder that sees the plain stream's own maps too
    (beyond the paper, docs/decisions/0016). ``denoising_stream: false`` leaves the second stream out, so that such a
    decoder judges alone; training and inference then take a third of the time. ``memory``: how many features of good
    parts are remembered, whose distance is averaged with the decoder's logits
    (docs/decisions/0019); 0 for none.
    """

    plain_stream: Literal["student", "teacher"] = "student"
    stem: Literal["conv3x3", "conv1x1"] = "conv3x3"
    init: Literal["teacher", "lite_medsam", "mobile_sam", "random"] = "teacher"
    centre_features: bool = True
    discrepancy_skip: bool = True
    aggregation: Literal["agreement", "decoder"] = "agreement"
    denoising_stream: bool = True
    memory: int = Field(0, ge=0, le=20_000)

    @model_validator(mode="after")
    def _a_decoder_sees_the_teachers_maps(self) -> Self:
        if self.aggregation == "decoder" and self.plain_stream != "teacher":
            raise ValueError("aggregation: decoder needs plain_stream: teacher")
        if not self.denoising_stream and self.aggregation != "decoder":
            raise ValueError("denoising_stream: false needs aggregation: decoder")
        if self.memory and self.aggregation != "decoder":
            raise ValueError("memory needs aggregation: decoder")
        return self

    @model_validator(mode="after")
    def _a_teacher_as_plain_stream_has_its_strides(self) -> Self:
        if self.plain_stream == "teacher" and (self.stem != "conv3x3" or self.init == "teacher"):
            raise ValueError("plain_stream: teacher needs stem: conv3x3, and init: lite_medsam, mobile_sam or random")
        return self


class EvaluateConfig(Section):
    """Scores, the operating point and the report.

    ``top_pixels`` the image score is the mean of that many largest pixels of a map at network size;
    ``false_reject_budget`` the share of good parts that may be rejected; ``map_source`` where the map comes from, for
    comparisons: see :class:`~stlm_core.models.detector.Detector`.
    """

    top_pixels: int = Field(100, ge=1)
    map_source: Literal["fa", "tlm", "fa-alone"] = "fa"
    false_reject_budget: Fraction = Field(0.05, gt=0, lt=1)
    report_images: int = Field(24, ge=0, le=500)
    batch_size: int = Field(4, ge=1)


class ExportConfig(Section):
    """ONNX export and its proof. ``tolerance`` is absolute, on map values in [0, 1].

    ``score_tolerance`` is absolute, on calibrated scores in [0, 1]. It is wider because calibration magnifies: on a
    line with raw scores near 0 a rounding difference of 1e-7 in the map can be one of 1e-4 in the score.
    """

    opset: int = Field(20, ge=18, le=23)
    parity_images: int = Field(8, ge=2)
    tolerance: float = Field(1e-4, gt=0)
    score_tolerance: float = Field(1e-3, gt=0, lt=0.1)
    latency_runs: int = Field(30, ge=3)


class StepResources(Section):
    """What the containers of one image ask the cluster for, in Kubernetes quantities: ``cpu`` cores, ``memory`` bytes.
    The memory is the limit too: a container that takes more is killed."""

    cpu: str = Field("1", pattern=r"^\d+(\.\d+)?m?$")
    memory: str = Field("2Gi", pattern=r"^\d+(\.\d+)?([KMGT]i?)?$")


class ResourcesConfig(Section):
    """What the line's pipeline on a cluster asks for. No step's result depends on it.

    ``data``, ``train`` and ``serve`` are the images that the steps run in. ``gpus`` is for every step of the ``train``
    image, each a ``gpu_type``; with more than one, the training steps run one process a GPU. ``shards`` is how many
    containers compute the teacher's features side by side.
    """

    data: StepResources = StepResources(cpu="1", memory="2Gi")
    train: StepResources = StepResources(cpu="2", memory="6Gi")
    serve: StepResources = StepResources(cpu="1", memory="2Gi")
    gpus: int = Field(0, ge=0, le=16)
    gpu_type: str = "nvidia.com/gpu"
    shards: int = Field(1, ge=1, le=256)


class ScheduleConfig(Section):
    """When a cluster retrains the line.

    ``cron``: five fields, or six with the seconds first; null for never. ``enabled: false`` pauses the schedule.
    """

    cron: str | None = None
    timezone: str = "UTC"
    enabled: bool = True


class RegisterConfig(Section):
    """MLflow names. ``experiment``: null for ``stlm-<line>``."""

    experiment: str | None = None
