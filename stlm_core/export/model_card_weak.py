"""Where the detector is known to be weak: the types of defect it misses most, with pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stlm_core.evaluation.example_files import ExampleFile
from stlm_core.export.model_card_findings import DefectType, Findings
from stlm_core.export.model_card_making import plain

_TYPES = 6
_PICTURES_A_TYPE = 2
_PICTURES = 8
_FALSE_REJECTS = 2


@dataclass(frozen=True)
class Weakness:
    """``summary``: a sentence or two. ``types``: the worst, worst first. ``others``: how many types are not shown.
    ``missed`` and ``rejected``: pictures of missed defects, of the worst types first, and of rejected good parts."""

    summary: str
    types: tuple[DefectType, ...]
    others: int
    missed: tuple[ExampleFile, ...]
    rejected: tuple[ExampleFile, ...]


def weakness(findings: Findings) -> Weakness:
    """The types with the worst recall, and what the misses among them look like."""
    shown = findings.defects[:_TYPES]
    missed = [
        example
        for each in shown
        for example in [found for found in findings.examples if _missed(found, each)][:_PICTURES_A_TYPE]
    ]
    rejected = [found for found in findings.examples if found.outcome == "false_reject"]
    return Weakness(
        summary=_summary(findings.defects),
        types=tuple(replace(each, name=plain(each.name)) for each in shown),
        others=len(findings.defects) - len(shown),
        missed=tuple(map(_plain, missed[:_PICTURES])),
        rejected=tuple(map(_plain, rejected[:_FALSE_REJECTS])),
    )


def _missed(example: ExampleFile, kind: DefectType) -> bool:
    return example.outcome == "missed" and example.defect_type == kind.name


def _plain(example: ExampleFile) -> ExampleFile:
    return replace(example, path=plain(example.path), defect_type=plain(example.defect_type))


def _summary(defects: tuple[DefectType, ...]) -> str:
    if not defects:
        return "No defective part was tested, so no weakness is known. That is not the same as having none."
    images, found = sum(each.images for each in defects), sum(each.found for each in defects)
    if found == images:
        return (
            f"All {images} defective test images were found. With so many tried, a type that is found every time may "
            f"still be missed: the intervals below go down to {min(each.low for each in defects):.0%}."
        )
    worst = defects[0]
    missing = [each for each in defects if each.found < each.images]
    return (
        f"{images - found} of {images} defective test images were missed, in {len(missing)} of {len(defects)} types. "
        f"The weakest is {plain(worst.name)}: {worst.found} of {worst.images} found (with so few images, anything "
        f"between {worst.low:.0%} and {worst.high:.0%} is plausible)."
    )
