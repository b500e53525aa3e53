"""Splitting: properties that must hold for every set of images."""

from __future__ import annotations

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
