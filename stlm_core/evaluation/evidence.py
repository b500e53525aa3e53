"""What a promotion looks at: every test image's identity, verdict and localisation, small enough to keep for ever.

Two versions of a line are compared on the same images, image by image, long after the images themselves are out of
reach. So an evaluation leaves, per test image, its hash, physical part, defect type and scores, and a sketch of its
anomaly map: at each of some 200 thresholds, how many normal pixels and which share of each ground-truth region lie at
or above it. From the sketch AUPRO can be computed for any selection or weighting of the images (within 1e-3).
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stlm_core.errors import UserError
from stlm_core.evaluation.predictions import GOOD
from stlm_core.files import write_bytes_atomic

FILE = "evidence.npz"
LIMIT = 0.3  # of the false positive rate, as everywhere for AUPRO
_LONGEST_FILE = 1 << 30  # bytes, unpacked
_KINDS = {
    "paths": "U",
    "sha256": "U",
    "groups": "U",
    "labels": "i",
    "defect_types": "U",
    "scores": "f",
    "rejected": "b",
    "thresholds": "f",
    "false_positives": "u",
    "normal_pixels": "i",
    "overlap": "f",
    "regions": "i",
    "trained_on": "U",
    "trained_parts": "U",
}
_NOT_OF_THE_IMAGES = ("thresholds", "trained_on", "trained_parts")

StrArray = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Evidence:
    """N test images in the order of the evaluation, and sketches of their maps at K thresholds.

    ``paths``, ``sha256`` (of the image file), ``groups`` (the physical part; "" if not known) and ``defect_types`` are
    texts (N,). ``labels`` (N,) int8: 0 good, 1 anomalous. ``scores`` (N,) float32 in [0, 1], calibrated: 0.5 is the
    threshold. ``rejected`` (N,) bool. ``thresholds`` (K,) float64, descending, the last one 0.

    ``false_positives`` (N, K) uint32: normal pixels at or above each threshold, of ``normal_pixels`` (N,) int64, 0
    for an image that does not count at pixel level. ``overlap`` (N, K) float32: the sum over the image's ``regions``,
    (N,) int32, of the share of the region at or above each threshold.

    ``trained_on``, ``trained_parts``: hashes of the images, and the physical parts, that the detector was made from
    (all splits but the test); of any number, none where it is not known.
    """

    paths: StrArray
    sha256: StrArray
    groups: StrArray
    labels: npt.NDArray[np.int8]
    defect_types: StrArray
    scores: npt.NDArray[np.float32]
    rejected: npt.NDArray[np.bool_]
    thresholds: npt.NDArray[np.float64]
    false_positives: npt.NDArray[np.uint32]
    normal_pixels: npt.NDArray[np.int64]
    overlap: npt.NDArray[np.float32]
    regions: npt.NDArray[np.int32]
    trained_on: StrArray = field(default_factory=lambda: np.array([], dtype=np.str_))
    trained_parts: StrArray = field(default_factory=lambda: np.array([], dtype=np.str_))

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, images: npt.NDArray[np.intp]) -> Evidence:
        """The evidence of some of the images, in that order."""
        chosen = {each.name: getattr(self, each.name) for each in fields(self)}
        return Evidence(
            **{name: value if name in _NOT_OF_THE_IMAGES else value[images] for name, value in chosen.items()}
        )

    def learned_from(self, other: Evidence) -> npt.NDArray[np.bool_]:
        """Which of the other's images this detector was made from, or from images of the same part: (N,)."""
        part = np.isin(other.groups, self.trained_parts) & (other.groups != "")
        return np.isin(other.sha256, self.trained_on) | part

    def aupro(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """AUPRO up to a false positive rate of 0.3 for each weighting of the images.

        ``weights`` (B, N), not negative, such as how often a resampling drew each image -> (B,) in [0, 1], NaN where
        nothing with a region or no normal pixel has weight. Integrated as
        :func:`stlm_core.evaluation.metrics.regions.aupro` does, between the sketch's thresholds linearly.
        """
        normal, regions = weights @ self.normal_pixels, weights @ self.regions
        with np.errstate(invalid="ignore", divide="ignore"):
            fpr = (weights @ self.false_positives) / normal[:, None]
            pro = (weights @ self.overlap.astype(np.float64)) / regions[:, None]
        zero = np.zeros((len(weights), 1))
        x, y = np.hstack([zero, fpr]), np.hstack([zero, pro])
        # Both curves cut at the limit; what lies beyond it has no width.
        left, right = np.minimum(x[:, :-1], LIMIT), np.minimum(x[:, 1:], LIMIT)
        width = x[:, 1:] - x[:, :-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.where(width > 0, (y[:, 1:] - y[:, :-1]) / width, 0.0)
        start = y[:, :-1] + slope * (left - x[:, :-1])
        end = start + slope * (right - left)
        area: npt.NDArray[np.float64] = ((right - left) * (start + end) / 2).sum(axis=1) / LIMIT
        return np.where((normal > 0) & (regions > 0), area, np.nan)

    def save(self, path: Path) -> None:
        """Write a compressed npz file without pickled objects."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **{each.name: getattr(self, each.name) for each in fields(self)})
        write_bytes_atomic(path, stream.getvalue())

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """Read and check what :meth:`save` wrote.

        Raises:
            UserError: the file is missing, damaged, or its arrays do not go together.
        """
        try:
            with zipfile.ZipFile(path) as packed:
                if sum(entry.file_size for entry in packed.infolist()) > _LONGEST_FILE:
                    raise ValueError("it is too large")
            with np.load(path, allow_pickle=False) as found:
                arrays = {name: found[name] for name in _KINDS}
            _check(arrays)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not the evidence of an evaluation: {error}") from None
        return cls(**arrays)


def _check(arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Raises ValueError unless the arrays have the right kinds, shapes and ranges."""
    for name, kind in _KINDS.items():
        if arrays[name].dtype.kind != kind:
            raise ValueError(f"{name} is {arrays[name].dtype}")
    images, levels = arrays["paths"].shape[0] if arrays["paths"].ndim else 0, arrays["thresholds"].size
    for name in _KINDS:
        shape = {"thresholds": (levels,), "false_positives": (images, levels), "overlap": (images, levels)}
        shape |= {each: (arrays[each].size,) for each in ("trained_on", "trained_parts")}
        if arrays[name].shape != shape.get(name, (images,)):
            raise ValueError(f"{name} is {arrays[name].shape}")
    labels, defects = arrays["labels"], arrays["defect_types"]
    rules = {
        "labels are 0 and 1": np.isin(labels, (0, 1)).all(),
        "good images have no defect type": ((labels == 0) == (defects == GOOD)).all(),
        "scores are in [0, 1]": _within(arrays["scores"], 0, 1),
        "thresholds fall to 0": levels > 0
        and (np.diff(arrays["thresholds"]) < 0).all()
        and arrays["thresholds"][-1] == 0,
        "pixel counts are not negative": (arrays["normal_pixels"] >= 0).all() and (arrays["regions"] >= 0).all(),
        "false positives are normal pixels": (arrays["false_positives"] <= arrays["normal_pixels"][:, None]).all(),
        "overlaps are shares": _within(arrays["overlap"], 0, arrays["regions"][:, None] * 1.001),
    }
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(f"it does not hold that {rule}")


def _within(values: npt.NDArray[Any], low: float, high: Any) -> bool:
    return bool(((values >= low) & (values <= high)).all())  # NaN is nowhere
