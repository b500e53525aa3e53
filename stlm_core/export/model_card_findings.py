"""What the evaluation left behind that a model card tells: test images, types of defect, pictures of errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stlm_core.errors import UserError
from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.example_files import ExampleFile, read_examples
from stlm_core.evaluation.spread import Interval, image_spread, overlap_spread

_REMEDY = "run `stlm evaluate --force` again"
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class ImageResult:
    """One test image. ``label``: 0 good, 1 defective; ``raw_score``: before calibration."""

    path: str
    label: int
    defect_type: str
    raw_score: float
    outcome: str
    has_mask: bool


@dataclass(frozen=True)
class DefectType:
    """What was found of one type of defect; ``low`` and ``high`` are the recall's 95 % interval. None: not defined."""

    name: str
    images: int
    found: int
    recall: float
    low: float
    high: float
    image_auroc: float | None
    aupro_30: float | None


@dataclass(frozen=True)
class Findings:
    """``defects``: worst recall first. ``examples``: wrong decisions, the worst first. ``parts``: the physical part by
    the path of an image that shows it, where known. ``spread``: 95 % intervals by the name of a figure."""

    images: tuple[ImageResult, ...]
    defects: tuple[DefectType, ...]
    examples: tuple[ExampleFile, ...]
    parts: Mapping[str, str]
    spread: Mapping[str, Interval]


def read_findings(files: Mapping[str, Path], parts: Mapping[str, str], *, seed: str) -> Findings:
    """Read what ``stlm evaluate`` wrote and measure the spread of its figures.

    Args:
        files: ``images`` (images.csv), ``defects`` (defects.csv), ``evidence`` (evidence.npz) and ``examples``, the
            folder with pictures of wrong decisions.
        parts: the physical part by the path of an image; "" or absent where it is not known.
        seed: what the bootstrap's draws depend on.

    Raises:
        UserError: a file is missing or damaged.
    """
    tested = tuple(_rows(files["images"], _test_image))
    ranked = image_spread(
        [image.label for image in tested],
        [image.raw_score for image in tested],
        [parts.get(image.path, "") for image in tested],
        seed=seed,
    )
    spread = ranked | overlap_spread(Evidence.load(files["evidence"]), seed=seed)
    defects = tuple(_rows(files["defects"], _defect_type))
    return Findings(tested, defects, read_examples(files["examples"]), parts, spread)


def _test_image(row: Mapping[str, str]) -> ImageResult:
    label, raw_score = int(row["label"]), float(row["raw_score"])
    if label not in (0, 1) or not 0 <= raw_score <= 1:
        raise ValueError(f"label {label} and score {raw_score} are not those of an image")
    return ImageResult(row["path"], label, row["defect_type"], raw_score, row["outcome"], row["has_mask"] == "True")


def _defect_type(row: Mapping[str, str]) -> DefectType:
    return DefectType(
        name=row["defect_type"],
        images=int(row["images"]),
        found=int(row["found"]),
        recall=float(row["recall"]),
        low=float(row["recall_low"]),
        high=float(row["recall_high"]),
        image_auroc=_defined(row["image_auroc"]),
        aupro_30=_defined(row["aupro_30"]),
    )


def _defined(text: str) -> float | None:
    value = float(text) if text else math.nan
    return None if math.isnan(value) else value


def _rows(path: Path, parse: Callable[[Mapping[str, str]], _Row]) -> Iterator[_Row]:
    """The rows of a table; a row that is not one ends it with an error."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                yield parse(row)
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table of the evaluation: {error}; {_REMEDY}") from None
