"""The gate as a pure function: every rule on its own, and properties that hold for any figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.promotion.gate import COMPARED, Candidate, decide
from stlm_core.settings import PromoteConfig

POLICY = PromoteConfig(min_image_auroc=0.8, max_regression=0.01, max_latency_ms=100.0, max_size_mb=120.0)
GOOD = Candidate(
    version=7,
    metrics={"image_auroc": 0.95, "aupro_30": 0.85, "recall_at_budget": 0.7},
    test_sha256="a" * 64,
    parity_passed=True,
    size_mb=69.0,
    latency_p95_ms=80.0,
)
CHAMPION = replace(GOOD, version=3)


def _with(candidate: Candidate, **metrics: float) -> Candidate:
    return replace(candidate, metrics={**candidate.metrics, **metrics})


def test_the_first_champion_is_promoted_when_every_rule_holds() -> None:
    decision = decide(GOOD, None, POLICY)
    assert decision.promote
    assert "image_auroc 0.9500 is at least the floor 0.8000" in decision.reasons
    assert "there is no champion to compare with" in decision.reasons


@pytest.mark.parametrize(
    ("challenger", "sentence"),
    [
        (_with(GOOD, image_auroc=0.79), "image_auroc 0.7900 is below the floor 0.8000"),
        (replace(GOOD, metrics={}), "image_auroc was not measured"),
        (_with(GOOD, image_auroc=float("nan")), "image_auroc was not measured"),
        (replace(GOOD, parity_passed=None), "there is no parity proof of exactly this file"),
        (replace(GOOD, parity_passed=False), "the parity proof failed"),
        (replace(GOOD, size_mb=121.0), "the file's size, 121.0 MB, is above the ceiling 120 MB"),
        (replace(GOOD, latency_p95_ms=100.5), "the 95th percentile of latency, 100.5 ms, is above the ceiling 100 ms"),
        (replace(GOOD, latency_p95_ms=None), "the 95th percentile of latency was not recorded"),
        (replace(GOOD, rolled_back="2026-01-01, too many rejects"), "was rolled back before: 2026-01-01"),
    ],
)
def test_each_rule_keeps_back_even_the_first_champion(challenger: Candidate, sentence: str) -> None:
    decision = decide(challenger, None, POLICY)
    assert not decision.promote
    failed = [check.sentence for check in decision.checks if not check.passed]
    assert len(failed) == 1
    assert sentence in failed[0]
    assert failed[0] in decision.reasons


@pytest.mark.parametrize("name", COMPARED)
def test_a_loss_beyond_the_margin_keeps_the_champion(name: str) -> None:
    old = CHAMPION.metrics[name]
    assert decide(_with(GOOD, **{name: old - 0.01}), CHAMPION, POLICY).promote
    decision = decide(_with(GOOD, **{name: old - 0.011}), CHAMPION, POLICY)
    assert not decision.promote
    assert decision.reasons == (
        f"{name} {old - 0.011:.4f} against {old:.4f} of champion 3: a loss of 0.0110, more than the margin 0.0100",
    )


def test_a_metric_that_only_the_champion_has_counts_as_lost() -> None:
    challenger = replace(GOOD, metrics={"image_auroc": 0.99, "recall_at_budget": 0.9})
    decision = decide(challenger, CHAMPION, POLICY)
    assert decision.reasons == ("aupro_30 was not measured, champion 3 has 0.8500",)


def test_other_test_images_mean_floors_only_and_a_warning() -> None:
    worse = replace(_with(GOOD, image_auroc=0.81, aupro_30=0.1), test_sha256="b" * 64)
    decision = decide(worse, CHAMPION, POLICY)
    assert decision.promote
    assert any("different test images: compared with the floors only" in reason for reason in decision.reasons)
    assert not decide(_with(worse, image_auroc=0.79), CHAMPION, POLICY).promote


def test_two_lines_without_test_images_are_not_called_the_same_test() -> None:
    nothing = replace(GOOD, metrics={}, test_sha256="")
    decision = decide(nothing, replace(nothing, version=3), POLICY.model_copy(update={"min_image_auroc": None}))
    assert decision.promote
    assert decision.warnings


def test_without_floors_and_ceilings_nothing_is_asked_for() -> None:
    policy = PromoteConfig(min_image_auroc=None, max_size_mb=None)
    assert decide(replace(GOOD, metrics={}, size_mb=None, latency_p95_ms=None), None, policy).promote


_FRACTION = st.floats(0, 1)
_CANDIDATE = st.builds(
    Candidate,
    version=st.integers(1, 99),
    metrics=st.dictionaries(st.sampled_from(COMPARED), _FRACTION),
    test_sha256=st.sampled_from(["", "a" * 64, "b" * 64]),
    parity_passed=st.sampled_from([True, False, None]),
    size_mb=st.none() | st.floats(1, 300),
    latency_p95_ms=st.none() | st.floats(1, 1000),
)


@given(_CANDIDATE, st.none() | _CANDIDATE, _FRACTION)
def test_nothing_below_a_floor_or_without_proof_is_ever_promoted(
    challenger: Candidate, champion: Candidate | None, floor: float
) -> None:
    decision = decide(challenger, champion, POLICY.model_copy(update={"min_image_auroc": floor}))
    if decision.promote:
        assert challenger.metrics["image_auroc"] >= floor
        assert challenger.parity_passed is True
        assert challenger.size_mb is not None
        assert challenger.size_mb <= 120.0
    else:
        assert decision.reasons


@given(_CANDIDATE, _CANDIDATE)
def test_of_two_models_more_than_the_margin_apart_at_most_one_replaces_the_other(
    left: Candidate, right: Candidate
) -> None:
    left, right = (replace(candidate, test_sha256="a" * 64) for candidate in (left, right))
    apart = any(
        abs(left.metrics[name] - right.metrics[name]) > 0.0101
        for name in COMPARED
        if name in left.metrics and name in right.metrics
    )
    if apart:
        assert not (decide(left, right, POLICY).promote and decide(right, left, POLICY).promote)
