"""Drift: do a line's good images still look like those the model in service was trained on?

Every statistic of an image (brightness, contrast, ...) is compared as a distribution: the 1-Wasserstein distance
divided by the reference's standard deviation, less what sampling alone explains, and the share of images that lie
outside the reference's range widened by at least two of them. docs/decisions/0008-drift-distance.md says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stlm_core.config import LineConfig
from stlm_core.errors import UserError
from stlm_core.files import write_json_atomic

STATISTICS = ("brightness", "contrast", "sharpness", "saturated", "width", "height")
_VERSION = 1
_QUANTILES = 512
_LARGEST = 1e100  # no statistic of an image comes near, and sums of such numbers stay finite
_DIGITS = 6  # significant ones, of stored values
# Standard deviations beyond the reference's smallest and largest value; the range of 20 parts says less than that of
# 1,000, so it is widened twice as much.
_MARGIN, _MARGIN_OF_FEW = 2.0, 20.0
_SAMPLING = 2.0  # times sqrt(1/n + 1/m) of n and m parts: the distance, in deviations, that chance alone rarely exceeds
# The least standard deviation that counts, so that a statistic that never varied can be compared. Absolute values for
# those between 0 and 1, shares of the reference's median for the others.
_FLOORS = {"brightness": 0.01, "contrast": 0.01, "saturated": 0.005}
_RELATIVE_FLOORS = {"sharpness": 0.05, "width": 0.01, "height": 0.01}


class Measured(Protocol):
    """An image's statistics, as :class:`stlm_core.data.inspection.Inspected` has them."""

    @property
    def brightness(self) -> float: ...
    @property
    def contrast(self) -> float: ...
    @property
    def sharpness(self) -> float: ...
    @property
    def saturated(self) -> float: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def group(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Distribution:
    """One statistic over many images: mean, standard deviation, range, and all values or 512 quantiles, sorted."""

    mean: float
    deviation: float
    smallest: float
    largest: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TrainingStatistics:
    """Distributions of :data:`STATISTICS` over ``images`` good training images of ``parts`` physical parts.

    Where nothing is known of parts, every image counts as one of its own. At least one image.
    """

    images: int
    parts: int
    distributions: Mapping[str, Distribution]

    @classmethod
    def of(cls, rows: Sequence[Measured]) -> TrainingStatistics:
        """Statistics of ``rows``.

        Raises:
            ValueError: there are none.
        """
        if not rows:
            raise ValueError("statistics of no images")
        return cls(len(rows), _parts(rows), {name: _distribution(_values(rows, name)) for name in STATISTICS})

    def write(self, path: Path) -> None:
        """Write them as JSON; the same images give the same bytes.

        Raises:
            UserError: ``path`` cannot be written.
        """
        write_json_atomic(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`of_json` reads."""
        distributions = {name: asdict(found) for name, found in self.distributions.items()}
        return {"version": _VERSION, "images": self.images, "parts": self.parts, "statistics": distributions}

    @classmethod
    def read(cls, path: Path) -> TrainingStatistics:
        """What :meth:`write` wrote.

        Raises:
            UserError: the file cannot be read or does not hold training statistics.
        """
        try:
            return cls.of_json(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise UserError(
                f"{path}: not the training statistics of a model; remove it, and `stlm promote` writes it again"
            ) from None

    @classmethod
    def of_json(cls, value: Any) -> TrainingStatistics:
        """The statistics in a JSON object.

        Raises:
            ValueError, TypeError, KeyError, AttributeError, OverflowError: it is not such an object.
        """
        images, parts = value["images"], value["parts"]
        if value["version"] != _VERSION or not all(isinstance(count, int) for count in (images, parts)):
            raise ValueError("unknown version, or counts that are none")
        if not 1 <= parts <= images < _LARGEST:
            raise ValueError("impossible counts")
        return cls(images, parts, {name: _parsed(value["statistics"][name]) for name in STATISTICS})


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one statistic moved.

    ``distance``: standard deviations of the reference, beyond what sampling explains (0 for none). ``outside``: share
    of the images outside ``smallest`` .. ``largest``, the reference's range widened by its margin. ``mean`` is that of
    the images, ``reference_mean`` of the reference.
    """

    statistic: str
    distance: float
    outside: float
    smallest: float
    largest: float
    mean: float
    reference_mean: float

    def exceeds(self, max_drift: float, max_outside: float) -> bool:
        """Whether either limit is exceeded."""
        return self.distance > max_drift or self.outside > max_outside


def compare(reference: TrainingStatistics, rows: Sequence[Measured]) -> list[Drift]:
    """How far ``rows`` are from the reference, one entry a statistic; nothing for no rows.

    What chance explains depends on the number of parts, because photographs of one part are alike.
    """
    if not rows:
        return []
    sampling = _SAMPLING * math.sqrt(1 / reference.parts + 1 / _parts(rows))
    margin = _MARGIN * (1 + _MARGIN_OF_FEW / reference.parts)
    return [_drift(name, reference.distributions[name], _values(rows, name), sampling, margin) for name in STATISTICS]


def describe(drift: Drift) -> str:
    """One short clause, for example "brightness 0.41 instead of 0.53 (6.2 deviations, 95% out of range)"."""
    means = f"{_short(drift.mean)} instead of {_short(drift.reference_mean)}"
    return f"{drift.statistic} {means} ({drift.distance:.1f} deviations, {drift.outside:.0%} out of range)"


def reference_path(config: LineConfig) -> Path:
    """Where the training statistics of the line's model in service are kept."""
    return config.root / "data" / "lines" / config.name / "reference.json"


def _drift(name: str, reference: Distribution, values: NDArray[np.float64], sampling: float, margin: float) -> Drift:
    deviation = max(reference.deviation, _floor(name, reference))
    distance = _wasserstein(np.array(reference.quantiles), np.sort(values)) / deviation
    smallest, largest = reference.smallest - margin * deviation, reference.largest + margin * deviation
    return Drift(
        name,
        distance=max(0.0, distance - sampling),
        outside=float(np.mean((values < smallest) | (values > largest))),
        smallest=smallest,
        largest=largest,
        mean=float(values.mean()),
        reference_mean=reference.mean,
    )


def _floor(name: str, reference: Distribution) -> float:
    if name in _FLOORS:
        return _FLOORS[name]
    return _RELATIVE_FLOORS[name] * abs(reference.quantiles[len(reference.quantiles) // 2]) + 1e-9


def _wasserstein(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Area between the distribution functions of two sorted samples (the 1-Wasserstein distance), in their unit."""
    merged = np.sort(np.concatenate([first, second]))
    below_first = np.searchsorted(first, merged[:-1], side="right") / len(first)
    below_second = np.searchsorted(second, merged[:-1], side="right") / len(second)
    return float((np.abs(below_first - below_second) * np.diff(merged)).sum())


def _parts(rows: Sequence[Measured]) -> int:
    """Physical parts that the images show; an image without a group is one of its own."""
    grouped = [row.group for row in rows if row.group]
    return len(set(grouped)) + len(rows) - len(grouped)


def _values(rows: Sequence[Measured], name: str) -> NDArray[np.float64]:
    return np.array([getattr(row, name) for row in rows], np.float64)


def _distribution(values: NDArray[np.float64]) -> Distribution:
    values = np.sort(values)
    if len(values) > _QUANTILES:
        levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        quantiles = values[(levels * len(values)).astype(np.int64)]
    else:
        quantiles = values
    smallest, largest = float(values[0]), float(values[-1])
    return Distribution(
        _rounded(float(values.mean())),
        _rounded(float(values.std())),
        _rounded(smallest),
        _rounded(largest),
        tuple(_rounded(float(value)) for value in quantiles),
    )


def _parsed(value: dict[str, Any]) -> Distribution:
    mean, deviation, smallest, largest = (float(value[name]) for name in ("mean", "deviation", "smallest", "largest"))
    quantiles = tuple(float(number) for number in value["quantiles"])
    if not quantiles or not all(abs(number) < _LARGEST for number in (mean, deviation, smallest, largest, *quantiles)):
        raise ValueError("a statistic without values, or with impossible ones")
    return Distribution(mean, deviation, smallest, largest, tuple(sorted(quantiles)))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
