"""Training statistics and drift: closed-form distances, false alarms, and what must be flagged."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from stlm_core.data.drift import STATISTICS, Drift, TrainingStatistics, compare, describe
from stlm_core.errors import UserError

MAX_DRIFT, MAX_OUTSIDE = 0.5, 0.05  # the defaults of the settings


@dataclass(frozen=True)
class Image:
    brightness: float = 0.5
    contrast: float = 0.2
    sharpness: float = 80.0
    saturated: float = 0.01
    width: int = 640
    height: int = 480
    group: str = ""


def images(brightness: object) -> list[Image]:
    return [Image(brightness=float(value)) for value in np.asarray(brightness, dtype=float)]


def of(name: str, drifts: list[Drift]) -> Drift:
    return next(drift for drift in drifts if drift.statistic == name)


def flagged(drifts: list[Drift]) -> set[str]:
    return {drift.statistic for drift in drifts if drift.exceeds(MAX_DRIFT, MAX_OUTSIDE)}


def test_the_same_images_have_not_drifted() -> None:
    rows = images(np.linspace(0.4, 0.6, 50))
    drifts = compare(TrainingStatistics.of(rows), rows)
    assert [drift.statistic for drift in drifts] == list(STATISTICS)
    assert all((drift.distance, drift.outside) == (0, 0) for drift in drifts)


@pytest.mark.parametrize("count", [200, 5000])
def test_a_shift_is_as_far_as_it_is_wide(count: int) -> None:
    """W1 of a shifted sample is the shift; in deviations, less twice the square root of 1/n + 1/m."""
    values = np.linspace(0.3, 0.7, count)
    drift = of("brightness", compare(TrainingStatistics.of(images(values)), images(values + 0.1)))
    assert drift.distance == pytest.approx(0.1 / values.std() - 2 * np.sqrt(2 / count), abs=0.01)
    assert drift.mean == pytest.approx(0.6)
    assert drift.reference_mean == pytest.approx(0.5)


def test_the_distance_is_that_of_scipy() -> None:
    from scipy.stats import wasserstein_distance

    generator = np.random.default_rng(0)
    first, second = generator.gamma(2, 0.05, 80), generator.gamma(3, 0.05, 33)
    drift = of("brightness", compare(TrainingStatistics.of(images(first)), images(second)))
    expected = wasserstein_distance(first, second) / first.std() - 2 * np.sqrt(1 / 80 + 1 / 33)
    assert drift.distance == pytest.approx(expected, rel=1e-4)


def test_images_out_of_range_are_counted() -> None:
    reference = TrainingStatistics.of(images(np.linspace(0.4, 0.6, 101)))
    deviation = reference.distributions["brightness"].deviation
    edge = 0.6 + 2 * (1 + 20 / 101) * deviation
    drift = of("brightness", compare(reference, images([0.5] * 8 + [edge - 1e-3, edge + 1e-3])))
    assert drift.outside == pytest.approx(0.1)
    assert drift.largest == pytest.approx(edge, rel=1e-4)


def test_a_statistic_that_never_varied_can_be_compared() -> None:
    reference = TrainingStatistics.of([Image()] * 30)
    nearly = [replace(Image(), brightness=0.502, saturated=0.011, width=641, sharpness=81.0)] * 30
    assert flagged(compare(reference, nearly)) == set()
    other = [replace(Image(), brightness=0.6, saturated=0.2, width=1280, sharpness=20.0)] * 30
    assert flagged(compare(reference, other)) == {"brightness", "saturated", "width", "sharpness"}


@pytest.mark.parametrize(("reference_images", "new_images"), [(84, 84), (84, 20), (20, 20)])
def test_false_alarms_are_rare(reference_images: int, new_images: int) -> None:
    """Four statistics, half of them skewed, drawn from one distribution: at most 1% is flagged, 5% of 20 images."""
    generator = np.random.default_rng(7)

    def draw(count: int) -> list[Image]:
        return [
            Image(*row)
            for row in np.column_stack(
                [
                    generator.normal(0.5, 0.03, count),
                    generator.normal(0.2, 0.02, count),
                    generator.lognormal(4, 0.4, count),
                    generator.exponential(0.02, count),
                ]
            )
        ]

    alarms = sum(
        bool(flagged(compare(TrainingStatistics.of(draw(reference_images)), draw(new_images)))) for _ in range(300)
    )
    assert alarms <= (3 if reference_images > 20 else 15)


def test_no_images_have_no_drift_and_no_statistics() -> None:
    assert compare(TrainingStatistics.of([Image()]), []) == []
    with pytest.raises(ValueError, match="no images"):
        TrainingStatistics.of([])


@pytest.mark.parametrize("count", [1, 512, 513, 4000])
def test_statistics_are_stored_small_and_come_back_equal(tmp_path: Path, count: int) -> None:
    statistics = TrainingStatistics.of(images(np.random.default_rng(0).uniform(0, 1, count)))
    file = tmp_path / "statistics.json"
    statistics.write(file)
    assert TrainingStatistics.read(file) == statistics
    assert len(statistics.distributions["brightness"].quantiles) == min(count, 512)
    assert file.stat().st_size < 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"version": 2}',
        b'{"version": 1, "images": 0, "statistics": {}}',
        b'{"version": 1, "images": 3, "statistics": {"brightness": {}}}',
        b"\xff\xfe",
    ],
)
def test_a_file_that_holds_no_statistics_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "reference.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"reference\.json: not the training statistics of a model"):
        TrainingStatistics.read(file)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    value = TrainingStatistics.of([Image()]).to_json()
    value["statistics"]["contrast"]["quantiles"] = [float("nan")]
    file = tmp_path / "reference.json"
    file.write_text(json.dumps(value))
    with pytest.raises(UserError, match="not the training statistics"):
        TrainingStatistics.read(file)


def test_drift_in_words() -> None:
    drift = Drift("brightness", 6.24, 0.95, 0.3, 0.7, 0.412, 0.534)
    assert describe(drift) == "brightness 0.412 instead of 0.534 (6.2 deviations, 95% out of range)"


def test_photographs_of_one_part_count_once() -> None:
    """Six photographs a part say no more of the line than one: chance explains as much as with a sixth of them."""
    parts = np.concatenate([np.linspace(0.4, 0.6, 14), np.linspace(0.5, 0.7, 16)])
    rows = [replace(image, group=f"part{index}") for index, image in enumerate(images(parts))]
    reference = TrainingStatistics.of([row for row in rows[:14] for _ in range(6)])
    assert (reference.images, reference.parts) == (84, 14)
    new = [row for row in rows[14:] for _ in range(6)]
    alone = compare(TrainingStatistics.of(rows[:14]), rows[14:])
    assert of("brightness", compare(reference, new)).distance == pytest.approx(of("brightness", alone).distance)
    unknown = compare(TrainingStatistics.of([replace(row, group="") for row in rows[:14] for _ in range(6)]), new)
    assert of("brightness", unknown).distance > of("brightness", alone).distance
