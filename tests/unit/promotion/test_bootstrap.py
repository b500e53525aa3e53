"""The paired bootstrap against scikit-learn, closed forms and its own symmetries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evidence_data import evidence, two_models
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import roc_auc_score

from stlm_core.promotion.bootstrap import paired_differences, weighted_auroc
from stlm_core.promotion.comparison import common_images, sign_test


@given(
    npst.arrays(np.float32, 12, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    npst.arrays(np.float64, (3, 12), elements=st.integers(0, 4).map(float)),
)
def test_the_weighted_auroc_is_scikit_learns(scores: np.ndarray, weights: np.ndarray) -> None:
    labels = np.array([0, 1] * 6, dtype=np.int8)
    weights[:, :2] += 1  # of either class at least one image
    found = weighted_auroc(labels, scores, weights)
    wanted = [roc_auc_score(labels, scores, sample_weight=row) for row in weights]
    assert found == pytest.approx(wanted, abs=1e-12)


def test_the_interval_of_recall_is_the_binomial_one() -> None:
    """Of 200 defects the second model misses 60 that the first finds: the difference is a share, 0.3 +- 1.645 sigma."""
    kinds = ["good"] * 20 + ["dent"] * 200
    first = evidence([0.1] * 20 + [0.9] * 200, kinds)
    second = evidence([0.1] * 20 + [0.9] * 140 + [0.1] * 60, kinds)
    found = paired_differences(first, second, confidence=0.95)["recall_at_budget"]
    sigma = np.sqrt(0.3 * 0.7 / 200)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - 1.645 * sigma, abs=0.006)
    assert found.high == pytest.approx(0.3 + 1.645 * sigma, abs=0.006)


def test_images_of_one_part_are_drawn_together() -> None:
    """Ten photographs a part carry the information of one."""
    kinds = ["good"] * 20 + ["dent"] * 200
    found = []
    for groups in ([""] * 220, [""] * 20 + [f"part {index // 10}" for index in range(200)]):
        scores = [0.1] * 20 + ([0.9] * 140 + [0.1] * 60)
        pair = evidence([0.1] * 20 + [0.9] * 200, kinds, groups=groups), evidence(scores, kinds, groups=groups)
        interval = paired_differences(*pair, confidence=0.95)["recall_at_budget"]
        found.append(interval.high - interval.low)
    assert found[1] / found[0] == pytest.approx(np.sqrt(10), rel=0.1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(-1, 1), st.randoms(use_true_random=False))
def test_swapping_negates_and_order_does_not_matter(seed: int, better: float, shuffled: object) -> None:
    new, old = two_models(seed, 15, 15, better=better)
    order = np.random.default_rng(seed).permutation(30)
    forth, back = common_images(new, old), common_images(old.take(order), new)
    there = paired_differences(forth.challenger, forth.champion, confidence=0.9)
    here = paired_differences(back.challenger, back.champion, confidence=0.9)
    assert there.keys() == here.keys() == {"image_auroc", "aupro_30", "recall_at_budget", "false_reject_rate"}
    for name, one in there.items():
        other = here[name]
        assert (one.value, one.low, one.high) == (-other.value, -other.high, -other.low)
        assert one.low <= one.high


def test_other_images_cannot_be_paired() -> None:
    new, old = two_models(0, 5, 5)
    with pytest.raises(ValueError, match="the same images in the same order"):
        paired_differences(new, old.take(np.arange(9)), confidence=0.9)


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


@pytest.mark.parametrize(("lost", "gained", "chance"), [(0, 0, 1.0), (1, 0, 0.5), (5, 0, 1 / 32), (3, 3, 42 / 64)])
def test_the_sign_test_is_exact(lost: int, gained: int, chance: float) -> None:
    assert sign_test(lost, gained) == pytest.approx(chance)
