"""The proof that an int8 file does the float file's work on one line: decisions, ranking and places of defects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stlm_core.errors import StlmError
from stlm_core.evaluation.metrics import PixelHistograms, aupro, image_auroc, ranking_auroc
from stlm_core.export.latency import LatencyReport
from stlm_core.runtime.model import DetectorSession

MAX_AUPRO_LOSS = 0.003
"""Of 1, at a false-positive rate of 0.3: what int8 was allowed to cost before anything was measured. Two seeds of one
line differ by more, so a loss within it cannot be told from having trained again."""

MAX_IMAGE_AUROC_LOSS = 0.003
"""Of 1. The decisions prove one threshold only; this guards the ranking behind a threshold that is chosen later."""

IMAGES_PER_FLIP = 100
"""One decision may differ for every so many images. Parts close to the threshold may tip with any rounding; on a line
with fewer images one flip could be a whole kind of defect, so there none may."""


@dataclass(frozen=True)
class ProofImage:
    """``path`` as in the manifest. ``held_back``: a good image of the threshold's split, otherwise one of the test
    split. ``pixels``: uint8 (H, W, 3) RGB; ``mask``: bool (H, W), None for a good image and where there is none."""

    path: str
    label: int
    held_back: bool
    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class FileFigures:
    """What one of the two files does. The metrics are of the test split, fractions of 1, None where not defined;
    ``false_rejects`` counts held-back good images above the threshold."""

    onnx_sha256: str
    size_mb: float
    image_auroc: float | None
    pixel_auroc: float | None
    aupro_30: float | None
    false_rejects: int


@dataclass(frozen=True)
class Int8Proof:
    """Both files over all held-back and test images; ``flipped`` names the images that they decide differently.

    ``excused`` of them are not counted: held-back images whose score in float is on the threshold. It was put there
    because of them, so that any rounding tosses a coin for each and says nothing about the file. ``mean_abs_score`` and
    ``max_abs_score`` are differences of calibrated scores, in [0, 1].
    """

    float32: FileFigures
    int8: FileFigures
    images: int
    held_back: int
    masks: int
    flipped: tuple[str, ...]
    excused: tuple[str, ...]
    mean_abs_score: float
    max_abs_score: float

    @property
    def allowed(self) -> int:
        """How many decisions may differ: by the number of test images, because a memory has seen the held-back ones."""
        return (self.images - self.held_back) // IMAGES_PER_FLIP

    def refusal(self) -> str | None:
        """Why the int8 file must not be used, with the figure; None where the proof holds."""
        counted = [path for path in self.flipped if path not in self.excused]
        if len(counted) > self.allowed:
            return f"{len(counted)} of {self.images} decisions differ ({_named(counted)}), {self.allowed} may"
        before, after = self.float32, self.int8
        if before.image_auroc is None or after.image_auroc is None:
            return "the test split lacks good or defective images, so nothing shows that int8 finds the same defects"
        if (loss := before.image_auroc - after.image_auroc) > MAX_IMAGE_AUROC_LOSS:
            return f"image AUROC falls by {_points(loss)} points, {_points(MAX_IMAGE_AUROC_LOSS)} are allowed"
        if before.aupro_30 is None or after.aupro_30 is None:
            return None  # a line without masks asks for no places
        if (loss := before.aupro_30 - after.aupro_30) > MAX_AUPRO_LOSS:
            return f"AUPRO@0.3 falls by {_points(loss)} points, {_points(MAX_AUPRO_LOSS)} are allowed"
        return None

    def require(self) -> None:
        """Refuse a failed proof.

        Raises:
            StlmError: names the figure, and the file to go on with.
        """
        if (reason := self.refusal()) is not None:
            raise StlmError(f"int8 refused: {reason}; the model.onnx of `stlm export` stays the one to use")

    def to_dict(self, latency: tuple[LatencyReport, LatencyReport], calibration_images: int) -> dict[str, Any]:
        """The content of ``proof.json``; ``latency`` of the float and the int8 file, timed in turns."""
        float32, int8 = latency
        return {
            "passed": self.refusal() is None,
            "limits": {
                "aupro_30_loss": MAX_AUPRO_LOSS,
                "image_auroc_loss": MAX_IMAGE_AUROC_LOSS,
                "flipped": self.allowed,
            },
            "calibration_images": calibration_images,
            **asdict(self),
            "latency": {
                "ratio": round(int8.p50_ms / float32.p50_ms, 3),
                "float32": float32.to_dict(),
                "int8": int8.to_dict(),
            },
        }


class _Side:
    """One file's answers so far: 7 MB of histograms and a few numbers an image."""

    def __init__(self, session: DetectorSession) -> None:
        self.session, self.pixels, self.false_rejects = session, PixelHistograms(), 0
        self.scores: list[float] = []  # of the test split

    def see(self, image: ProofImage) -> tuple[float, bool]:
        found = self.session.predict(image.pixels[None])
        score, rejected = float(found.scores[0]), bool(found.is_anomalous[0])
        if image.held_back:
            self.false_rejects += rejected
        else:
            self.scores.append(score)
            if image.label == 0 or image.mask is not None:
                self.pixels.update(found.anomaly_maps[0], image.mask)
        return score, rejected

    def figures(self, labels: list[int]) -> FileFigures:
        counts = self.pixels.counts()
        return FileFigures(
            onnx_sha256=self.session.sha256,
            size_mb=round(self.session.size_bytes / 1e6, 3),
            image_auroc=image_auroc(labels, self.scores),
            pixel_auroc=ranking_auroc(counts),
            aupro_30=aupro(counts, 0.3),
            false_rejects=self.false_rejects,
        )


def prove_int8(
    float32: DetectorSession,
    int8: DetectorSession,
    images: Iterable[ProofImage],
    *,
    score_tolerance: float,
    on_image: Callable[[], None] = lambda: None,
) -> Int8Proof:
    """Run both files on every image, one at a time; images and maps are let go, so memory does not grow with them.

    Args:
        score_tolerance: how close to the threshold, in calibrated scores, is on it (``export.score_tolerance``).

    Raises:
        StlmError: a model put out something that is not a number.
    """
    before, after = _Side(float32), _Side(int8)
    labels: list[int] = []
    flipped: list[str] = []
    excused: list[str] = []
    differences: list[float] = []
    held_back = masks = 0
    for image in images:
        (score, decision), (other, other_decision) = before.see(image), after.see(image)
        differences.append(abs(score - other))
        if decision != other_decision:
            flipped.append(image.path)
            if image.held_back and abs(score - float32.threshold) <= score_tolerance:
                excused.append(image.path)
        if image.held_back:
            held_back += 1
        else:
            labels.append(image.label)
        masks += image.mask is not None
        on_image()
    return Int8Proof(
        float32=before.figures(labels),
        int8=after.figures(labels),
        images=len(differences),
        held_back=held_back,
        masks=masks,
        flipped=tuple(flipped),
        excused=tuple(excused),
        mean_abs_score=float(np.mean(differences)) if differences else 0.0,
        max_abs_score=max(differences, default=0.0),
    )


def _named(paths: list[str], most: int = 3) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def _points(share: float) -> str:
    return f"{100 * share:.2f}"
