"""What a model card must say that nobody measured, and what the figures rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stlm_core.export.facts import ExportFacts
from stlm_core.export.model_card_findings import Findings
from stlm_core.export.model_card_making import Making, grid, plain

_FEW = 30  # images, under which a share is a rough figure


def limits(facts: ExportFacts, findings: Findings, making: Making) -> tuple[str, ...]:
    """Sentences, the most important first."""
    return (
        "Robustness was not measured: other light or exposure, focus, camera position, pose or turn of the part, "
        "background, dirt on the lens. No test image was altered, and the test images come from the same source as "
        "the training images.",
        *_kinds(findings),
        *_smallest(facts, making),
        *_calibration(facts),
        *_parts(findings),
        *_images(findings),
        *_spread(facts.metrics, findings),
    )


def _kinds(findings: Findings) -> Iterator[str]:
    names = sorted({image.defect_type for image in findings.images if image.label == 1})
    if names:
        yield (
            f"Only these kinds of defect were tested: {', '.join(plain(name) for name in names)}. What is found of "
            "others is not known, and recall on the line depends on how often each kind occurs there."
        )
    else:
        yield "No defective part was tested: which defects are found, and how many, is not known."


def _smallest(facts: ExportFacts, making: Making) -> Iterator[str]:
    if making.photo is None:
        return
    width, height = (-(-side // grid(facts)) for side in making.photo)
    yield (
        f"Defects much smaller than {width} x {height} pixels of a {making.photo[0]} x {making.photo[1]} photograph "
        "are smaller than one cell of the grid on which the network decides, and are easily missed."
    )


def _calibration(facts: ExportFacts) -> Iterator[str]:
    point = facts.operating_point
    yield (
        "The bounds on false rejects hold as long as later good parts come from the same process as the held-back "
        "ones. A new supplier, tool, lamp or camera ends them; the drift of the good images, which validation reports, "
        "is the sign."
    )
    darkest, brightest = facts.captures.brightness
    yield (
        "Of a picture in other light or focus than those it was made from, the model says so beside its verdict, which "
        f"stands: a mean brightness outside {max(0.0, darkest):.2f} to {min(1.0, brightest):.2f} of white, or blurred "
        "or grainy edges. Look at the camera first."
    )
    if not point.certified:
        yield (f"{point.images()} are too few for a budget of {point.budget:.1%}. {point.needed()}")


def _parts(findings: Findings) -> Iterator[str]:
    known = [findings.parts[image.path] for image in findings.images if findings.parts.get(image.path)]
    parts = len(set(known))
    if parts and parts < len(known):
        yield (
            f"{len(known)} test images show {parts} different parts. Images of one part are alike, so the Wilson "
            "intervals, which count every image as a part of its own, are too narrow; the bootstrap draws whole parts."
        )


def _images(findings: Findings) -> Iterator[str]:
    if not findings.images:
        return
    good = sum(image.label == 0 for image in findings.images)
    defective = [image for image in findings.images if image.label == 1]
    masks = sum(image.has_mask for image in defective)
    if good == 0:
        yield "There is no good test image: false rejects were not measured, and figures of ranking are not defined."
    elif good < _FEW:
        yield f"Only {good} good test images: the measured false-reject rate is a rough figure."
    if 0 < len(defective) < _FEW:
        yield f"Only {len(defective)} defective test images: the measured recall is a rough figure."
    if defective and masks == 0:
        yield "The defective images have no masks: whether defects are located was not measured."
    elif masks < len(defective):
        yield f"{len(defective) - masks} of {len(defective)} defective images have no mask and count as images only."


def _spread(metrics: Mapping[str, float], findings: Findings) -> Iterator[str]:
    for name, title in (("image_auroc", "image AUROC"), ("image_ap", "image AP")):
        if name in metrics and name not in findings.spread:
            yield (
                f"The spread of the {title} could not be measured: the test images are too few, or every draw of them "
                "gives the same value. It is not zero."
            )
    pixels = (("pixel_auroc", "pixel AUROC"), ("aupro_30", "AUPRO"))
    alone = [title for name, title in pixels if name in metrics and name not in findings.spread]
    if alone:
        yield f"The spread was not measured of: {', '.join(alone)}. Such a value stands alone."
