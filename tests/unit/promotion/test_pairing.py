"""Which images two versions have in common: by content, whatever the order, and nothing that contradicts itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evidence_data import evidence
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.evaluation.evidence import Evidence
from stlm_core.promote_settings import PromoteConfig
from stlm_core.promotion.pairing import common_images, distinct


def _same(one: Evidence, other: Evidence) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_pairs_are_found_by_content_and_relabelled_images_left_out() -> None:
    kinds = ["good"] * 4 + ["dent"] * 4
    names = [f"{index}.png" for index in range(8)]
    new = evidence([0.1] * 4 + [0.9] * 4, kinds, names=names)
    old = evidence([0.2] * 4 + [0.8] * 4, ["good"] * 3 + ["dent"] * 5, names=names)
    unknown = replace(new, sha256=np.array([""] * 8))
    common = common_images(new, old.take(np.array([7, 3, 2, 0, 0, 5])))
    assert sorted(common.challenger.paths.tolist()) == ["0.png", "2.png", "5.png", "7.png"]
    assert common.challenger.paths.tolist() == common.champion.paths.tolist()
    assert (common.good, common.anomalous) == (2, 2)
    assert common.warnings == (
        "1 test images have another label than at the champion's test: left out",
        "5 of 8 test images were among the champion's, too: only these are compared",
    )
    assert common_images(unknown, old).good == 0


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=8))
def test_neither_order_nor_copies_matter(order: list[int], copies: list[int]) -> None:
    kinds = ["good"] * 6 + ["dent"] * 6
    once = evidence(np.linspace(0.05, 0.95, 12), kinds)
    shown = once.take(np.array(order + copies, dtype=np.intp))
    shown = replace(shown, paths=np.array([f"{place} {name}" for place, name in enumerate(shown.paths)]))
    found = distinct(shown)
    assert _same(replace(found, paths=once.paths), replace(distinct(once), paths=once.paths))


@given(st.permutations(range(5)))
def test_a_file_that_is_there_as_good_and_as_defective_is_left_out(order: list[int]) -> None:
    names = ["a.png", "b.png", "c.png", "a.png", "d.png"]
    found = evidence([0.1, 0.2, 0.3, 0.4, 0.5], ["good", "good", "dent", "dent", "dent"], names=names)
    found = found.take(np.array(order, dtype=np.intp))
    assert sorted(distinct(found).paths.tolist()) == ["b.png", "c.png", "d.png"]


def test_images_without_a_hash_are_told_apart_by_their_path() -> None:
    found = evidence([0.1, 0.2, 0.3], ["good"] * 3)
    assert len(distinct(replace(found, sha256=np.array([""] * 3)))) == 3


def test_an_image_with_another_mask_now_is_compared_at_image_level_only() -> None:
    kinds = ["good"] * 2 + ["dent"] * 2
    new = evidence([0.1, 0.2, 0.8, 0.9], kinds)
    old = replace(new, normal_pixels=new.normal_pixels + np.array([0, 0, 0, 3]))
    for forth in (common_images(new, old), common_images(old, new)):
        assert forth.warnings == ("1 test images have another mask now: not compared at pixel level",)
        assert (forth.good, forth.anomalous) == (2, 2)
        for side in (forth.challenger, forth.champion):
            assert side.normal_pixels.sum() == new.normal_pixels[:3].sum()
            assert side.regions.sum() == 1
            assert side.false_positives[:, -1].tolist() == side.normal_pixels.tolist()
            assert np.isfinite(side.aupro(np.ones((1, 4)))[0])


@pytest.mark.parametrize(("parts", "enough"), [(9, False), (10, True)])
def test_photographs_of_one_part_count_once(parts: int, enough: bool) -> None:
    kinds = ["good"] * 40 + ["dent"] * 40
    groups = [f"good {index % parts}" for index in range(40)] + [f"dent {index % 10}" for index in range(40)]
    found = evidence([0.1] * 40 + [0.9] * 40, kinds, groups=groups)
    common = common_images(found, found)
    assert (common.good, common.anomalous) == (parts, 10)
    assert common.enough(PromoteConfig()) == enough
