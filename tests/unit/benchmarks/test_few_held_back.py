"""Draws of too few held-back scores: the counts are those of the rules."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.few_held_back import drawn


def test_the_largest_of_n_rejects_one_in_n_plus_one_and_the_shipped_rule_about_the_budget() -> None:
    rng = np.random.default_rng(0)
    good = 1 / (1 + np.exp(-rng.normal(-2, 0.6, 2000)))
    defective = 1 / (1 + np.exp(-rng.normal(1, 0.6, 300)))
    found = drawn(good, defective, 4, 0.05, 400, seed=1)
    assert found["largest_false_rejects"] == pytest.approx(0.2, abs=0.03)
    assert found["shipped_false_rejects"] == pytest.approx(0.05, abs=0.015)
    assert found["shipped_recall"] < found["largest_recall"]
    enough = drawn(good, defective, 19, 0.05, 400, seed=1)
    assert enough["shipped_false_rejects"] == enough["largest_false_rejects"]
