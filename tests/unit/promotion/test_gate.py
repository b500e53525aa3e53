"""The gate as a pure function: every rule on its own, and properties that hold for any figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evidence_data import evidence, two_models
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.promote_settings import PromoteConfig
from stlm_core.promotion.candidate import Candidate, Check, Decision, decision_markdown
from stlm_core.promotion.gate import COMPARED, decide

POLICY = PromoteConfig(min_image_auroc=0.8, max_regression=0.01, max_latency_ms=100.0, max_size_mb=120.0)
GOOD = Candidate(
    version=7,
    metrics={"image_auroc": 0.95, "aupro_30": 0.85, "recall_at_budget": 0.7},
    test_sha256="a" * 64,
    parity_passed=True,
    size_mb=69.0,
    latency_p95_ms=80.0,
    false_reject_budget=0.05,
)
CHAMPION = replace(GOOD, version=3)


def _with(candidate: Candidate, **metrics: float) -> Candidate:
    return replace(candidate, metrics={**candidate.metrics, **metrics})


def _failed(decision: Decision) -> list[str]:
    return [check.sentence for check in decision.checks if check.verdict == "fail"]


def _pair(seed: int = 0, good: int = 60, defects: int = 60, **how: float) -> tuple[Candidate, Candidate]:
    new, old = two_models(seed, good, defects, **how)
    return replace(GOOD, evidence=new), replace(CHAMPION, evidence=old)


def test_the_first_champion_is_promoted_when_every_rule_holds() -> None:
    decision = decide(GOOD, None, POLICY)
    assert decision.outcome == "promote"
    assert "image AUROC 0.9500 is at least the floor 0.8000" in decision.reasons
    assert "there is no champion to compare with" in decision.reasons


@pytest.mark.parametrize(
    ("challenger", "sentence"),
    [
        (_with(GOOD, image_auroc=0.79), "image AUROC 0.7900 is below the floor 0.8000"),
        (replace(GOOD, metrics={}), "image AUROC was not measured"),
        (_with(GOOD, image_auroc=float("nan")), "image AUROC was not measured"),
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
    assert decision.outcome == "keep"
    (failed,) = _failed(decision)
    assert sentence in failed
    assert failed in decision.reasons


@pytest.mark.parametrize(
    ("license_name", "forbids", "sentence"),
    [
        ("CC-BY-4.0", "data licence CC BY-NC-SA 4.0", "commercial use is forbidden"),
        ("unknown", "", "the licence of the images is unknown"),
        ("", "", "the licence of the images is unknown"),
    ],
)
def test_a_commercial_line_takes_no_other_licence(license_name: str, forbids: str, sentence: str) -> None:
    challenger = replace(GOOD, data_license=license_name, non_commercial=forbids)
    assert decide(challenger, None, POLICY).promote
    decision = decide(challenger, None, POLICY.model_copy(update={"commercial": True}))
    assert sentence in _failed(decision)[0]
    allowed = replace(GOOD, data_license="CC0-1.0")
    assert decide(allowed, None, POLICY.model_copy(update={"commercial": True})).promote


def test_a_model_that_is_clearly_better_is_promoted_and_the_converse_kept() -> None:
    new, old = _pair(better=2.5, good=150, defects=150, alike=1.0)
    assert decide(new, old, POLICY).outcome == "promote"
    decision = decide(replace(old, version=8), replace(new, version=4), POLICY)
    assert decision.outcome == "keep"
    assert any("beyond the margin 0.0" in sentence for sentence in _failed(decision))


def test_the_same_model_again_is_promoted() -> None:
    new, old = _pair()
    assert decide(replace(new, evidence=old.evidence), old, POLICY).outcome == "promote"


def test_a_difference_that_may_be_chance_asks_for_a_person() -> None:
    new, old = _pair(good=20, defects=20, alike=0.2)
    decision = decide(new, old, POLICY)
    assert decision.outcome == "needs-human"
    assert any("too uncertain for the margin 0.0100" in reason for reason in decision.reasons)


def test_a_line_may_be_told_to_keep_its_champion_without_asking() -> None:
    new, old = _pair(good=20, defects=20, alike=0.2)
    quiet = decide(new, old, POLICY.model_copy(update={"undecided": "keep"}))
    assert quiet.outcome == "keep"
    assert quiet.reasons[0] == decide(new, old, POLICY).reasons[0]


def test_few_common_images_ask_for_a_person_and_say_what_to_do() -> None:
    new, old = _pair(good=9, defects=40)
    decision = decide(new, old, POLICY)
    assert decision.outcome == "needs-human"
    assert decision.reasons[0].startswith("only 9 good and 40 defective test images have been seen by both versions")
    assert "more come in by `stlm lines update --extend-test`" in decision.reasons[0]
    seen = new.evidence
    assert seen is not None
    fewer = replace(old, evidence=seen.take(np.arange(5)))
    decision = decide(new, fewer, POLICY)
    assert "run `stlm promote` where the test images are" in decision.reasons[0]


def test_a_lost_defect_type_is_not_hidden_by_a_better_mean() -> None:
    kinds = ["good"] * 40 + ["dent"] * 40 + ["hair"] * 10
    before = [0.1] * 40 + [0.4] * 30 + [0.9] * 10 + [0.9] * 10
    now = [0.1] * 40 + [0.9] * 40 + [0.3] * 10
    new, old = (
        replace(candidate, evidence=evidence(scores, kinds)) for candidate, scores in ((GOOD, now), (CHAMPION, before))
    )
    decision = decide(new, old, POLICY)
    assert decision.outcome == "keep"
    assert _failed(decision)[-1] == (
        "defect type hair: of 10 champion 3 finds 10, this version 0 (10 lost, 0 gained; p = 0.001: not chance)"
    )
    one = evidence([*now[:80], 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.3], kinds)
    decision = decide(replace(new, evidence=one), old, POLICY)
    assert any("1 lost, 0 gained; p = 0.500: it could be chance" in reason for reason in decision.reasons)
    assert decision.outcome == "needs-human"


def test_scores_that_move_for_operators_ask_for_a_person() -> None:
    kinds = ["good"] * 20 + ["dent"] * 20
    old = evidence([0.1] * 20 + [0.9] * 20, kinds)
    new = evidence([0.4] * 20 + [0.9] * 20, kinds)
    decision = decide(replace(GOOD, evidence=new), replace(CHAMPION, evidence=old), POLICY)
    assert decision.outcome == "needs-human"
    assert "median 0.400 against 0.100 of champion 3, of the same part +0.300" in decision.reasons[0]


def test_a_threshold_that_breaks_its_promise_asks_for_a_person() -> None:
    kinds = ["good"] * 40
    broken = replace(GOOD, evidence=evidence([0.9] * 12 + [0.1] * 28, kinds))
    decision = decide(broken, None, POLICY)
    assert decision.outcome == "needs-human"
    assert "12 of 40 good test images are rejected, at least 18.3% with 95% confidence" in decision.reasons[0]
    suspicious = replace(GOOD, evidence=evidence([0.9] * 3 + [0.1] * 37, kinds))
    decision = decide(suspicious, None, POLICY)
    assert decision.promote
    assert any("above the budget 5.0%; it may be chance" in warning for warning in decision.warnings)


def test_copies_of_an_image_are_no_more_evidence_of_false_rejects() -> None:
    once = evidence([0.9, *[0.1] * 39], ["good"] * 40)
    copied = once.take(np.concatenate([np.arange(40), np.zeros(30, dtype=np.intp)]))
    decisions = [decide(replace(GOOD, evidence=each), None, POLICY) for each in (once, copied)]
    assert decisions[0] == decisions[1]
    assert decisions[0].outcome == "promote"


def test_a_defect_type_is_lost_by_parts_not_by_photographs() -> None:
    kinds = ["good"] * 20 + ["dent"] * 60
    groups = [f"good {index}" for index in range(20)] + [f"dent {index // 6}" for index in range(60)]
    old = evidence([0.1] * 20 + [0.9] * 60, kinds, groups=groups)
    new = evidence([0.1] * 20 + [0.1] * 6 + [0.9] * 54, kinds, groups=groups)
    decision = decide(replace(GOOD, evidence=new), replace(CHAMPION, evidence=old), POLICY)
    assert any(
        "60 champion 3 finds 60, this version 54 (6 lost, 0 gained; p = 0.500" in each for each in decision.reasons
    )
    assert decision.outcome == "needs-human"


def test_a_figure_that_is_no_number_is_null_in_json() -> None:
    decision = Decision((Check("image AUROC", "unsure", "unknown", {"low": -np.inf, "high": 0.5}),), ())
    assert decision.to_dict()["checks"][0]["numbers"] == {"low": None, "high": 0.5}


def test_without_any_defects_good_parts_decide() -> None:
    policy = POLICY.model_copy(update={"min_image_auroc": None})
    kinds = ["good"] * 60
    calm, nervous = evidence([0.1] * 60, kinds), evidence([0.9] * 20 + [0.1] * 40, kinds)
    new, old = replace(GOOD, metrics={}), replace(CHAMPION, metrics={})
    same = decide(replace(new, evidence=calm), replace(old, evidence=calm), policy)
    assert same.outcome == "promote"
    assert "there are no defective test images: only good parts were compared" in same.warnings
    assert decide(replace(new, evidence=nervous), replace(old, evidence=calm), policy).outcome == "keep"


def test_one_more_identical_image_changes_nothing() -> None:
    new, old = _pair(good=20, defects=20)
    assert new.evidence is not None
    assert old.evidence is not None
    again = np.append(np.arange(40), 5)
    twice = replace(new, evidence=new.evidence.take(again)), replace(old, evidence=old.evidence.take(again))
    assert decide(*twice, POLICY).to_dict()["outcome"] == decide(new, old, POLICY).to_dict()["outcome"]
    numbers = [
        [
            check.numbers
            for check in decide(*pair, POLICY).checks
            if "low" in check.numbers and "margin" in check.numbers
        ]
        for pair in (twice, (new, old))
    ]
    assert numbers[0] == numbers[1]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), better=st.sampled_from([-1.5, 0.0, 1.5]), label=st.booleans())
def test_one_more_image_on_which_both_agree_never_turns_a_clear_decision(seed: int, better: float, label: bool) -> None:
    kinds = ["good"] * 30 + ["dent"] * 30
    rng = np.random.default_rng(seed)
    level = np.array([0.15] * 30 + [0.8] * 30)
    scores = [np.clip(level + rng.normal(0, 0.1, 60) + lift * (level > 0.5) * 0.1, 0, 1) for lift in (better, 0)]
    clear = {"promote", "keep"}
    extra = (0.95, "dent") if label else (0.05, "good")
    outcomes = []
    for more in (False, True):
        both = [
            evidence(np.append(each, extra[0]) if more else each, [*kinds, extra[1]] if more else kinds)
            for each in scores
        ]
        outcomes.append(decide(replace(GOOD, evidence=both[0]), replace(CHAMPION, evidence=both[1]), POLICY).outcome)
    assert len(set(outcomes)) == 1 or set(outcomes) != clear


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), better=st.floats(-2, 2), alike=st.floats(0, 1))
def test_of_two_models_at_most_one_keeps_the_other_back_as_worse(seed: int, better: float, alike: float) -> None:
    new, old = _pair(seed, good=30, defects=30, better=better, alike=alike)
    forth, back = decide(new, old, POLICY), decide(replace(old, version=9), replace(new, version=2), POLICY)
    for name in ("image AUROC", "AUPRO", "recall at the budget", "the false-reject rate"):
        verdicts = [[check for check in each.checks if check.name == name] for each in (forth, back)]
        (one,), (other,) = verdicts
        assert not (one.verdict == "fail" and other.verdict == "fail")
        assert one.numbers["low"] == -other.numbers["high"]
        assert one.numbers["high"] == -other.numbers["low"]


_FRACTION = st.floats(0, 1)
_EVIDENCE = st.none() | st.builds(
    lambda seed, better: two_models(seed, 20, 20, better=better)[0], st.integers(0, 20), st.sampled_from([0.0, 1.0])
)
_CANDIDATE = st.builds(
    Candidate,
    version=st.integers(1, 99),
    metrics=st.dictionaries(st.sampled_from(COMPARED), _FRACTION),
    test_sha256=st.sampled_from(["", "a" * 64, "b" * 64]),
    parity_passed=st.sampled_from([True, False, None]),
    size_mb=st.none() | st.floats(1, 300),
    latency_p95_ms=st.none() | st.floats(1, 1000),
    false_reject_budget=st.none() | st.floats(0.01, 0.2),
    evidence=_EVIDENCE,
)


@settings(deadline=None, max_examples=60)
@given(_CANDIDATE, st.none() | _CANDIDATE, _FRACTION)
def test_nothing_below_a_floor_or_without_proof_is_ever_promoted(
    challenger: Candidate, champion: Candidate | None, floor: float
) -> None:
    decision = decide(challenger, champion, POLICY.model_copy(update={"min_image_auroc": floor}))
    if decision.outcome != "keep":
        assert challenger.metrics["image_auroc"] >= floor
        assert challenger.parity_passed is True
        assert challenger.size_mb is not None
        assert challenger.size_mb <= 120.0
    assert decision.reasons
    assert decision.promote == (decision.to_dict()["outcome"] == "promote")


def test_without_floors_and_ceilings_nothing_is_asked_for() -> None:
    policy = PromoteConfig(min_image_auroc=None, max_size_mb=None)
    assert decide(replace(GOOD, metrics={}, size_mb=None, latency_p95_ms=None), None, policy).promote


class TestWithoutEvidence:
    """Versions from before there was any: the figures alone."""

    @pytest.mark.parametrize(
        ("name", "margin"), [("image_auroc", 0.01), ("aupro_30", 0.01), ("recall_at_budget", 0.03)]
    )
    def test_a_loss_beyond_the_margin_keeps_the_champion_and_a_smaller_one_asks(self, name: str, margin: float) -> None:
        assert name in COMPARED
        policy = PromoteConfig(min_image_auroc=None)
        old = CHAMPION.metrics[name]
        assert decide(_with(GOOD, **{name: old}), CHAMPION, policy).outcome == "promote"
        assert decide(_with(GOOD, **{name: old - margin}), CHAMPION, policy).outcome == "needs-human"
        decision = decide(_with(GOOD, **{name: old - margin - 0.001}), CHAMPION, policy)
        assert decision.outcome == "keep"
        assert f"a loss of {margin + 0.001:.4f}, more than the margin {margin:.4f}" in decision.reasons[0]

    def test_a_metric_that_only_the_champion_has_counts_as_lost(self) -> None:
        challenger = replace(GOOD, metrics={"image_auroc": 0.99, "recall_at_budget": 0.9})
        assert decide(challenger, CHAMPION, POLICY).reasons == ("AUPRO was not measured, champion 3 has 0.8500",)

    def test_other_test_images_ask_for_a_person(self) -> None:
        decision = decide(replace(GOOD, test_sha256="b" * 64), CHAMPION, POLICY)
        assert decision.outcome == "needs-human"
        assert "measured on different test images" in decision.reasons[0]


def test_a_champion_of_which_nothing_is_left_to_compare_asks_for_a_person() -> None:
    policy = PromoteConfig(min_image_auroc=None)
    decision = decide(replace(GOOD, metrics={}), replace(CHAMPION, metrics={}), policy)
    assert decision.outcome == "needs-human"
    assert any("neither figures nor verdicts" in reason for reason in decision.reasons)


def test_markdown_shows_what_decided_first_and_no_markup_of_others() -> None:
    decision = decide(replace(GOOD, rolled_back="<b>x</b> | *y*"), None, POLICY)
    lines = decision_markdown(decision, "line [a](b)").splitlines()
    assert lines[0] == "# line \\[a\\](b)"
    assert lines[2] == "**Keep the champion**"
    rows = [line for line in lines if line.startswith("| fail") or line.startswith("| pass")]
    assert rows[0].startswith("| fail | history | version 7 was rolled back before: &lt;b&gt;x&lt;/b&gt; \\| \\*y\\*")
    assert all(row.startswith("| pass") for row in rows[1:])
