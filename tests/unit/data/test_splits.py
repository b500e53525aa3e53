"""Splitting: properties that must hold for every set of images."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.data.splits import assign_splits

LINES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=60)


def split(
    items: list[tuple[int, int]], *, validation: float = 0.1, calibration: float = 0.2, seed: int = 0
) -> list[str]:
    digests = [f"{digest:064x}" for digest, _ in items]
    groups = [f"part{group}" if group else "" for _, group in items]
    return assign_splits(digests, groups, validation_fraction=validation, calibration_fraction=calibration, seed=seed)


@given(items=LINES, seed=st.integers(0, 5))
def test_images_of_one_part_or_of_equal_bytes_stay_together(items: list[tuple[int, int]], seed: int) -> None:
    splits = split(items, seed=seed)
    for key in (lambda item: item[0], lambda item: item[1] or None):
        sides: dict[int, set[str]] = {}
        for item, side in zip(items, splits, strict=True):
            if key(item) is not None:
                sides.setdefault(key(item), set()).add(side)
        assert all(len(side) == 1 for side in sides.values())


@given(items=LINES, seed=st.integers(0, 5), shuffle=st.integers(0, 1000))
def test_order_of_images_does_not_matter(items: list[tuple[int, int]], seed: int, shuffle: int) -> None:
    shuffled = items.copy()
    random.Random(shuffle).shuffle(shuffled)
    before = sorted(zip(items, split(items, seed=seed), strict=True))
    assert before == sorted(zip(shuffled, split(shuffled, seed=seed), strict=True))


@given(count=st.integers(4, 300), seed=st.integers(0, 3))
def test_fractions_are_met_exactly_without_groups(count: int, seed: int) -> None:
    splits = split([(index, 0) for index in range(count)], seed=seed)
    assert splits.count("calibration") == max(1, round(0.2 * count))
    assert splits.count("validation") == max(1, round(0.1 * count))


def test_no_validation_when_none_is_asked_for() -> None:
    assert "validation" not in split([(index, 0) for index in range(50)], validation=0.0)


@pytest.mark.parametrize(("parts", "photographs"), [(5, 20), (4, 10), (3, 10), (3, 1), (8, 12)])
def test_few_large_parts_still_give_every_split_one(parts: int, photographs: int) -> None:
    items = [(photographs * part + number, part + 1) for part in range(parts) for number in range(photographs)]
    for seed in range(5):
        splits = split(items, seed=seed)
        assert set(splits) == {"train", "validation", "calibration"}
        assert len(splits) == len(items)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=12),
    validation=st.floats(0.001, 0.499),
    calibration=st.floats(0.001, 0.499),
    seed=st.integers(0, 5),
)
def test_no_split_is_empty_where_there_are_three_parts(
    sizes: list[int], validation: float, calibration: float, seed: int
) -> None:
    parts = [part for part, size in enumerate(sizes) for _ in range(size)]
    items = [(number, part + 1) for number, part in enumerate(parts)]
    splits = split(items, validation=validation, calibration=calibration, seed=seed)
    assert set(splits) == {"train", "validation", "calibration"}
    where = {part: {side for owner, side in zip(parts, splits, strict=True) if owner == part} for part in set(parts)}
    assert all(len(sides) == 1 for sides in where.values())


@pytest.mark.parametrize("photographs", [1, 10])
def test_of_two_parts_one_sets_the_threshold_and_one_is_learned(photographs: int) -> None:
    splits = split([(number, 1 + number // photographs) for number in range(2 * photographs)])
    assert sorted(set(splits)) == ["calibration", "train"]
    splits = split([(number, 1 + number // photographs) for number in range(2 * photographs)], calibration=0)
    assert sorted(set(splits)) == ["train", "validation"]


def test_the_division_is_that_of_earlier_versions() -> None:
    """Manifests of lines that have long been trained say which image was learned: it stays so."""
    items = [(number, 1 + number % 23 if number % 3 else 0) for number in range(200)]
    splits = split(items, seed=3)
    assert (splits.count("calibration"), splits.count("validation")) == (40, 22)
    assert hashlib.sha256(" ".join(splits).encode()).hexdigest()[:16] == "0398b3ae16257be4"


def test_seed_changes_the_split() -> None:
    items = [(index, 0) for index in range(50)]
    assert split(items, seed=0) != split(items, seed=1)


def test_a_new_image_leaves_nearly_all_others_where_they_were() -> None:
    before = split([(index, 0) for index in range(100)])
    after = split([(index, 0) for index in range(101)])[:100]
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 2


def test_one_part_only_is_left_for_training() -> None:
    assert set(split([(index, 1) for index in range(20)])) == {"train"}


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one group per digest"):
        assign_splits(["a"], [], validation_fraction=0.1, calibration_fraction=0.2, seed=0)
