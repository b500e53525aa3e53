"""The proof that the exported file says what the trained model says: scores, maps and decisions, on real images."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from stlm_core.errors import StlmError
from stlm_core.runtime.model import DetectorSession

BATCHES = (1, 2, 5)
THRESHOLD = 0.5  # on calibrated scores
_OTHER_SIZE = 0.75
_BATCH_PIXELS = 1 << 24  # images of a batch are made smaller until it has no more: each model keeps 65 bytes a pixel
_PACKAGES = ("numpy", "onnx", "onnxruntime", "torch")


@dataclass(frozen=True)
class ParityImage:
    """A real image of the line. ``path`` as in the manifest; ``pixels`` uint8 (H, W, 3) RGB."""

    path: str
    split: str
    sha256: str
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ParityCase:
    """Largest absolute differences between torch and ONNX Runtime over images of one batch and image size.

    ``flipped`` decisions differ; ``excused`` of them have scores within the score tolerance of the threshold, where a
    difference in the last digits may tip the scale either way.
    """

    batch: int
    height: int
    width: int
    images: int
    max_abs_score: float
    max_abs_map: float
    flipped: int
    excused: int


@dataclass(frozen=True)
class ParityReport:
    """All cases with what they were run on; ``to_dict`` is the content of ``parity.json``."""

    passed: bool
    tolerance: float
    score_tolerance: float
    max_abs_score: float
    max_abs_map: float
    flipped_decisions: int
    excused_decisions: int
    onnx_sha256: str
    cases: tuple[ParityCase, ...]
    images: tuple[dict[str, Any], ...]
    versions: dict[str, str]
    providers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def require(self) -> None:
        """Refuse a failed proof.

        Raises:
            StlmError: names the figure that is out of tolerance and where.
        """
        for case in self.cases:
            where = f"batch {case.batch}, {case.width} x {case.height} pixels"
            for name, value, setting, limit in (
                ("anomaly maps", case.max_abs_map, "tolerance", self.tolerance),
                ("scores", case.max_abs_score, "score_tolerance", self.score_tolerance),
            ):
                if not value <= limit:
                    raise StlmError(
                        f"parity proof failed: {name} of torch and ONNX Runtime differ by {value:.3g}, more than "
                        f"export.{setting} {limit:.3g} ({where})"
                    )
            if case.flipped > case.excused:
                raise StlmError(
                    f"parity proof failed: {case.flipped - case.excused} of {case.images} decisions differ between "
                    f"torch and ONNX Runtime ({where})"
                )


def prove_parity(
    model: nn.Module,
    session: DetectorSession,
    images: Sequence[ParityImage],
    *,
    tolerance: float,
    score_tolerance: float,
    on_batch: Callable[[int], None] = lambda images: None,
) -> ParityReport:
    """Run both models on the same pixels: batches of 1, 2 and 5, at the images' own size and at another.

    Batches of 1 take every image at its own size; larger ones take as many images as they hold, cycling when
    there are fewer, brought to the first one's size, or to what 16 megapixels hold of them. The other size is three
    quarters of it, made odd.

    Args:
        model: in eval mode on the CPU; what was exported.
        session: the exported file.
        images: at least one.
        tolerance: largest absolute difference of map values, in [0, 1].
        score_tolerance: largest absolute difference of calibrated scores, in [0, 1].
        on_batch: called with the number of images after each batch.

    Raises:
        StlmError: a model put out something that is not a number.
    """
    if not images:
        raise ValueError("a parity proof needs images")
    cases = []
    for scale in (1.0, _OTHER_SIZE):
        for batch in BATCHES:
            compared = []
            for pixels in _batches(images, batch, scale):
                compared.append(_compare(model, session, pixels, score_tolerance))
                on_batch(len(pixels))
            cases.append(_worst(compared, batch))
    report = ParityReport(
        passed=all(_holds(case, tolerance, score_tolerance) for case in cases),
        tolerance=tolerance,
        score_tolerance=score_tolerance,
        max_abs_score=max(case.max_abs_score for case in cases),
        max_abs_map=max(case.max_abs_map for case in cases),
        flipped_decisions=sum(case.flipped for case in cases),
        excused_decisions=sum(case.excused for case in cases),
        onnx_sha256=session.sha256,
        cases=tuple(cases),
        images=tuple({"path": image.path, "split": image.split, "sha256": image.sha256} for image in images),
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        providers=session.providers,
    )
    return report


def passes(images: int) -> int:
    """How many images :func:`prove_parity` puts through each model, given that many images."""
    return 2 * (images + sum(BATCHES) - 1)


def _holds(case: ParityCase, tolerance: float, score_tolerance: float) -> bool:
    return case.max_abs_map <= tolerance and case.max_abs_score <= score_tolerance and case.flipped <= case.excused


def _batches(images: Sequence[ParityImage], batch: int, scale: float) -> Iterator[npt.NDArray[np.uint8]]:
    if batch == 1:
        for image in images:
            yield _resized(image.pixels, _scaled(image.pixels, scale))[None]
        return
    height, width = images[0].pixels.shape[:2]
    size = _scaled(images[0].pixels, scale * min(1.0, math.sqrt(_BATCH_PIXELS / (batch * height * width))))
    chosen = [images[index % len(images)].pixels for index in range(batch)]
    yield np.stack([_resized(pixels, size) for pixels in chosen])


def _scaled(pixels: npt.NDArray[np.uint8], scale: float) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    if scale == 1.0:
        return height, width
    return int(height * scale) | 1, int(width * scale) | 1


def _resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _compare(
    model: nn.Module, session: DetectorSession, pixels: npt.NDArray[np.uint8], score_tolerance: float
) -> ParityCase:
    with torch.no_grad():
        scores, maps, decisions = (output.numpy() for output in model(torch.from_numpy(pixels)))
    if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise StlmError("parity proof failed: the trained model's output is not a number; train it again")
    exported = session.predict(pixels)
    flipped = decisions != exported.is_anomalous
    near = np.maximum(np.abs(scores - THRESHOLD), np.abs(exported.scores - THRESHOLD)) <= score_tolerance
    return ParityCase(
        batch=len(pixels),
        height=pixels.shape[1],
        width=pixels.shape[2],
        images=len(pixels),
        max_abs_score=_max_abs(scores, exported.scores),
        max_abs_map=_max_abs(maps, exported.anomaly_maps),
        flipped=int(flipped.sum()),
        excused=int((flipped & near).sum()),
    )


def _max_abs(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    if left.shape != right.shape:
        raise StlmError(f"parity proof failed: torch puts out shape {left.shape}, ONNX Runtime {right.shape}")
    # One by one: in double precision the maps of a batch of photographs would take gigabytes.
    return float(np.max([np.abs(one.astype(np.float64) - other).max() for one, other in zip(left, right, strict=True)]))


def _worst(cases: Sequence[ParityCase], batch: int) -> ParityCase:
    first = cases[0]
    return ParityCase(
        batch=batch,
        height=first.height,
        width=first.width,
        images=sum(case.images for case in cases),
        max_abs_score=max(case.max_abs_score for case in cases),
        max_abs_map=max(case.max_abs_map for case in cases),
        flipped=sum(case.flipped for case in cases),
        excused=sum(case.excused for case in cases),
    )
