"""The model card's content: what the detector is for, what it was made of, what it was measured to do.

One set of facts and sentences; :mod:`~stlm_core.export.model_card_markdown` and
:mod:`~stlm_core.export.model_card_html` show them. All texts are plain: escaping is the renderers' work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stlm_core.evaluation.verdict import FIGURES, Verdict, verdicts
from stlm_core.export.facts import ExportFacts
from stlm_core.export.latency import LatencyReport
from stlm_core.export.model_card_findings import Findings
from stlm_core.export.model_card_limits import limits
from stlm_core.export.model_card_making import (
    Code,
    Making,
    architecture,
    data_rows,
    file_rows,
    plain,
    reproduce,
    seeds_text,
)
from stlm_core.export.model_card_operating import Operating, operating
from stlm_core.export.model_card_weak import Weakness, weakness
from stlm_core.export.parity import ParityReport
from stlm_core.weights.catalog import CATALOG

Row = tuple[str, str]
_BOOTSTRAP, _WILSON, _UNKNOWN = "bootstrap over test images", "Wilson, over test images", "spread not measured"
_SHARES = (
    ("recall_at_budget", "Recall at the threshold", "Share of the defective test images that are rejected."),
    ("false_reject_rate", "False rejects", "Share of the good test images that are rejected."),
)

USES = (
    "Marking parts that look unlike the good parts it was trained on, and showing where, for an inspector or a sorter "
    "with a person behind it.",
    "Photographs taken as the training images were: same camera, position, light, and kind of part.",
    "Looking for defects of any kind, also of kinds never seen before, as long as the photograph shows them: it "
    "learned from good parts only. How many it finds was measured for the kinds below and for no others.",
)
NOT_FOR = (
    "Safety. It is not a safety device, and no part of one.",
    "Measuring. It gives no sizes, depths or tolerances, and no cause or name of a defect.",
    "Other parts, cameras or light than those of its training images. After such a change, train and calibrate again.",
    "Releasing parts without any other check where a missed defect does harm: no detector finds them all.",
)


@dataclass(frozen=True)
class Flag:
    """A warning at the top. ``tone``: "bad" or "warn"."""

    tone: str
    title: str
    text: str


@dataclass(frozen=True)
class Figure:
    """One measured figure, a fraction of 1, with its 95 % interval where ``spread`` says how it was found."""

    name: str
    title: str
    meaning: str
    value: float
    low: float | None
    high: float | None
    spread: str


@dataclass(frozen=True)
class ModelCard:
    """Everything on the card, in its order. Pairs are name and value; a value may be :class:`Code`."""

    line: str
    summary: str
    flags: tuple[Flag, ...]
    identity: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    operating: Operating
    point: str
    figures: tuple[Figure, ...]
    undefined: tuple[str, ...]
    measured_on: str
    weakness: Weakness
    limits: tuple[str, ...]
    data: tuple[Row, ...]
    model: str
    teacher: tuple[Row, ...]
    parity: ParityReport
    latency: LatencyReport
    commands: tuple[str, ...]
    files: tuple[Row, ...]
    repeatable: str


def model_card(
    facts: ExportFacts, parity: ParityReport, latency: LatencyReport, findings: Findings, making: Making
) -> ModelCard:
    """The card, a function of its arguments alone."""
    line = plain(facts.line)
    figures = _figures(facts.metrics, findings)
    return ModelCard(
        line=line,
        summary=(
            f"Looks at a photograph of a part of the line {line} and says how unlike the good parts of its training "
            "it is, whether to reject it, and where it differs."
        ),
        flags=_flags(facts),
        identity=(
            ("ONNX file, sha256", Code(parity.onnx_sha256)),
            ("code", Code(plain(facts.code_version))),
            ("commit", Code(plain(facts.git_revision)) if facts.git_revision else "not known"),
            ("profile", plain(facts.profile) or "not recorded"),
        ),
        verdicts=tuple(verdicts(facts.metrics, facts.operating_point)),
        operating=operating(facts.operating_point, facts.metrics),
        point=facts.operating_point.explain(),
        figures=figures,
        undefined=tuple(title for name, title, _ in (*FIGURES, *_SHARES) if name not in facts.metrics),
        measured_on=_measured_on(facts, making),
        weakness=weakness(findings),
        limits=limits(facts, findings, making),
        data=data_rows(facts, findings, making),
        model=architecture(facts, making),
        teacher=(
            ("teacher", plain(facts.detector.teacher) or "not recorded"),
            ("weights, sha256", Code(facts.detector.teacher_sha256) if facts.detector.teacher_sha256 else "unknown"),
            ("licence", plain(facts.teacher_license)),
            *_start(facts),
        ),
        parity=parity,
        latency=latency,
        commands=reproduce(facts, making),
        files=file_rows(facts, making, parity.onnx_sha256),
        repeatable=_repeatable(facts),
    )


def _start(facts: ExportFacts) -> tuple[Row, ...]:
    """The weights that a trained stream starts from, where they are not the teacher's."""
    if not facts.start:
        return ()
    return (
        ("trained stream starts from", plain(facts.start)),
        ("weights it starts from, sha256", Code(CATALOG[facts.start].sha256)),
        ("licence of these", plain(facts.start_license)),
    )


def _flags(facts: ExportFacts) -> tuple[Flag, ...]:
    flags = []
    if facts.non_commercial:
        why = plain("; ".join(facts.non_commercial))
        flags.append(Flag("bad", "Not for commercial use", f"These weights are not for commercial use: {why}."))
    if facts.data_license == "unknown":
        flags.append(
            Flag(
                "warn",
                "Licence of the images unknown",
                "The licence of the line's images is not recorded. Set data.license of the line before the model "
                "leaves the house.",
            )
        )
    if not facts.teacher_known:
        flags.append(
            Flag(
                "warn",
                "Licence of the teacher unknown",
                "The teacher's weights are not those of the catalogue, so their licence is not known here. Find it "
                "out before the model leaves the house.",
            )
        )
    return tuple(flags)


def _figures(metrics: Mapping[str, float], findings: Findings) -> tuple[Figure, ...]:
    found = []
    for name, title, meaning in (*FIGURES, *_SHARES):
        if name not in metrics:
            continue
        low, high, spread = metrics.get(f"{name}_low"), metrics.get(f"{name}_high"), _WILSON
        if low is None or high is None:
            (low, high), spread = findings.spread.get(name, (None, None)), _BOOTSTRAP
        found.append(Figure(name, title, meaning, metrics[name], low, high, _UNKNOWN if low is None else spread))
    return tuple(found)


def _measured_on(facts: ExportFacts, making: Making) -> str:
    if not {"test_good", "test_anomalous"} <= facts.metrics.keys() or not facts.images.get("test"):
        return "The line has no test images: nothing could be measured, only the operating point is known."
    good, anomalous = int(facts.metrics["test_good"]), int(facts.metrics["test_anomalous"])
    return (
        f"{good:,} good and {anomalous:,} defective test images, never used for training or for the threshold. "
        f"One training run ({seeds_text(making.seeds)}): the spread over seeds is not known from it."
    )


def _repeatable(facts: ExportFacts) -> str:
    text = (
        "The same code, images, settings and seeds give the same weights on the same kind of processor with the same "
        "library versions, and at the same commit the same ONNX file, byte for byte. Elsewhere figures agree closely, "
        "hashes do not."
    )
    if facts.git_revision.endswith("-dirty"):
        text += " The checkout had local changes when this file was made: the commit alone does not give it back."
    if not facts.git_revision:
        text += " The commit of the code is not known."
    return text
