"""What a model was made of: data, network, seeds, and the commands that make it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from stlm_core.export.facts import ExportFacts
from stlm_core.export.model_card_findings import Findings
from stlm_core.models.detector import asks_memory

Row = tuple[str, str]
_STEM_STRIDE = {"conv3x3": 16, "conv1x1": 4}
_FINEST, _FINEST_OF_DECODER = 4, 2  # stride of the map where the teacher is the plain stream
_DIGITS = frozenset("0123456789abcdef")
_TURNED = {
    "none": "not turned: as they lie in the good images",
    "small": "turned by up to 5 degrees",
    "quarter": "turned by quarters of a circle",
    "any": "turned by any angle",
}


class Code(str):
    """A text to be shown as it would be typed: a hash, a version, a name of a file."""

    __slots__ = ()


@dataclass(frozen=True)
class Making:
    """What is known of the making besides :class:`~stlm_core.export.facts.ExportFacts`.

    ``parameters``: of the networks that the exported graph runs. ``photo``: width and height of most images, pixels;
    None without images. ``data_revision``: name of the version of the images, "" if they have none.
    """

    config_sha256: str
    data_revision: str
    parameters: int
    seeds: Mapping[str, int]
    photo: tuple[int, int] | None


def plain(text: str) -> str:
    """``text`` with everything that is no visible letter or space escaped: a name may reverse the text around it."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def grid(facts: ExportFacts) -> int:
    """Side of the grid on which the network decides, cells."""
    detector = facts.detector
    if detector.plain_stream == "student":
        return detector.size // _STEM_STRIDE[detector.stem]
    return detector.size // (_FINEST_OF_DECODER if detector.aggregation == "decoder" else _FINEST)


def seeds_text(seeds: Mapping[str, int]) -> str:
    """``seeds data 0, distill 0``."""
    return f"seeds {', '.join(f'{name} {seed}' for name, seed in seeds.items())}"


def architecture(facts: ExportFacts, making: Making) -> str:
    """The network in one paragraph."""
    size, cells = facts.detector.size, grid(facts)
    kind = (
        "A two-stream detector (SAM-guided two-stream lightweight model, arXiv 2402.19145)"
        if facts.detector.denoising
        else "A detector made of a frozen network's features (a descendant of the SAM-guided two-stream lightweight "
        "model, arXiv 2402.19145, without its denoising stream)"
    )
    return (
        f"{kind} of {making.parameters / 1e6:.2f} million parameters. {_streams(facts)} Defective parts were not used. "
        f"{_joined(facts)} The photograph "
        f"is scaled to {size} x {size} pixels and judged on a grid of {cells} x {cells} cells; the score is the mean "
        f"of the {facts.top_pixels} largest pixels of {_scored(facts)}, calibrated so that 0.5 is the threshold. "
        "Scaling, calibration and threshold are inside the file: input is uint8 RGB of any size and number, output a "
        "score, a map and a decision."
    )


def _streams(facts: ExportFacts) -> str:
    """What sees the part, and what it was taught."""
    remembered = (
        f"{facts.detector.memory:,} features of good parts are remembered, and the distance to the nearest of them "
        "says how strange a place is."
        if asks_memory(facts.detector, facts.map_source)
        else ""
    )
    if not facts.detector.denoising:
        return f"The frozen teacher sees the part as it is. {remembered}".rstrip()
    streams = (
        "One stream is the frozen teacher itself, which sees a part as it is; it taught the other, a TinyViT encoder "
        "of a Segment Anything model, to see it as it should be,"
        if facts.detector.plain_stream == "teacher"
        else "Two TinyViT encoders share the two-way transformer of a Segment Anything decoder. A frozen teacher "
        "taught one to see a part as it is, the other to see it as it should be,"
    )
    return f"{streams} from good parts with painted-in faults. {remembered}".rstrip()


def _joined(facts: ExportFacts) -> str:
    """Where the anomaly map comes from."""
    if facts.map_source == "tlm":
        return (
            "Their disagreement, position by position, is the anomaly map."
            if facts.detector.denoising
            else "That distance is the anomaly map."
        )
    if facts.detector.aggregation == "agreement":
        return "A small convolutional network, the feature aggregation, turns their disagreement into the anomaly map."
    decided = (
        "A small convolutional network, the feature aggregation, learned from painted-in faults to tell them from the "
        "part by these features"
    )
    if _both(facts):
        return f"{decided}; the anomaly map is the mean of its verdict and the remembered features'."
    return f"{decided}; its verdict is the anomaly map."


def _scored(facts: ExportFacts) -> str:
    """Where the score is read."""
    return "a second map, in which the remembered features weigh more" if _both(facts) else "the map"


def _both(facts: ExportFacts) -> bool:
    """Whether decoder and memory are both asked."""
    return facts.map_source == "fa" and asks_memory(facts.detector, facts.map_source)


def data_rows(facts: ExportFacts, findings: Findings, making: Making) -> tuple[Row, ...]:
    """What the images are and whose."""
    types = Counter(image.defect_type for image in findings.images if image.label == 1)
    listed = ", ".join(f"{number} {plain(name)}" for name, number in sorted(types.items()))
    good = sum(image.label == 0 for image in findings.images)
    tested = f"{facts.images.get('test', 0):,}" if facts.images.get("test") else "none"
    if findings.images:
        tested += f": {good:,} good" + (f"; defective: {listed}" if listed else ", none defective")
    remembers = asks_memory(facts.detector, facts.map_source)
    last = ", then remembered" if remembers else ""
    scored = ", each scored as if its part were not remembered" if remembers else " alone"
    rows: list[Row] = [
        ("training", f"{facts.images.get('train', 0):,} good images"),
        ("validation", f"{facts.images.get('validation', 0):,} good images, for choosing among checkpoints{last}"),
        ("calibration", f"{facts.images.get('calibration', 0):,} good images, for the threshold{scored}"),
        ("test", tested),
    ]
    if making.photo:
        rows.append(("size of the photographs", f"{making.photo[0]} x {making.photo[1]} pixels (most of them)"))
    rows += [
        ("parts in training", _TURNED.get(facts.detector.rotation, "how they were turned is not recorded")),
        ("licence of the images", plain(facts.data_license)),
        ("data, sha256", Code(facts.dataset_sha256)),
        ("test split, sha256", Code(facts.test_sha256) if facts.test_sha256 else "no test images"),
        ("version of the images", Code(plain(making.data_revision)) if making.data_revision else "not recorded"),
    ]
    return tuple(rows)


def file_rows(facts: ExportFacts, making: Making, onnx_sha256: str) -> tuple[Row, ...]:
    """Everything that pins the file down."""
    remembered = (("remembered by the evaluation, sha256", Code(facts.remembered_sha256)),)
    return (
        ("ONNX file, sha256", Code(onnx_sha256)),
        ("trained weights, sha256", Code(facts.detector_sha256)),
        *(remembered if facts.remembered_sha256 else ()),
        ("settings, sha256", Code(making.config_sha256)),
        ("data, sha256", Code(facts.dataset_sha256)),
        ("version of the images", Code(plain(making.data_revision)) if making.data_revision else "not recorded"),
        ("commit", Code(plain(facts.git_revision)) if facts.git_revision else "not known"),
        ("code", Code(plain(facts.code_version))),
        ("profile", plain(facts.profile) or "not recorded"),
        ("seeds", seeds_text(making.seeds).removeprefix("seeds ")),
    )


def reproduce(facts: ExportFacts, making: Making) -> tuple[str, ...]:
    """The commands that make the file again, for a shell in a checkout."""
    line, commit = plain(facts.line), facts.git_revision.removesuffix("-dirty")
    images = (
        f"stlm data pull --line {shlex.quote(line)}"
        if making.data_revision
        else f"# the images, which are not under DVC: those of data sha256 {facts.dataset_sha256[:12]}"
    )
    return (
        *([f"git checkout {commit}"] if commit and set(commit) <= _DIGITS else ()),
        "make install && source .venv/bin/activate",
        images,
        f"dvc repro {shlex.quote(f'export@{line}')}",
        f"sha256sum {shlex.quote(f'outputs/{line}/export/model.onnx')}",
    )
