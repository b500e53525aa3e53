"""The operating point: coverage, edge cases, calibration."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stlm_core.errors import UserError
from stlm_core.evaluation.operating_point import OperatingPoint, _student, fit_operating_point, images_needed


@pytest.mark.parametrize(("n", "budget"), [(19, 0.05), (40, 0.05), (100, 0.1), (2, 0.05), (1, 0.5)])
def test_guarantee_and_confidence_hold_in_simulation(n: int, budget: float) -> None:
    rng = np.random.default_rng(11)
    # Uniform scores: the true false-reject rate of a threshold t is 1 - t.
    points = [fit_operating_point(rng.random(n), budget) for _ in range(4000)]
    rates = np.array([1 - point.raw_threshold for point in points])
    spread = 4 / np.sqrt(len(rates))
    assert rates.mean() == pytest.approx(points[0].guaranteed_false_reject, abs=spread * rates.std())
    assert np.mean(rates <= budget) == pytest.approx(points[0].confidence, abs=spread / 2)


@pytest.mark.parametrize(("n", "budget"), [(3, 0.05), (4, 0.05), (8, 0.05), (18, 0.05), (30, 0.01)])
@pytest.mark.parametrize("images", [1, 3], ids=["one image a part", "three alike"])
def test_too_few_for_the_budget_keep_it_all_the_same_where_log_odds_are_normal(
    n: int, budget: float, images: int
) -> None:
    rng = np.random.default_rng(5)
    names = [str(number) for number in range(n)] * images
    drawn = [np.tile(rng.normal(-2, 0.7, n), images) for _ in range(4000)]
    points = [fit_operating_point(1 / (1 + np.exp(-one)), budget, names) for one in drawn]
    thresholds = np.array([point.raw_threshold for point in points])
    rates = stats.norm.sf(np.log(thresholds / (1 - thresholds)), -2, 0.7)
    # The limit alone would keep the budget exactly; it is never below the largest score, which matters with many.
    assert rates.mean() <= budget + 4 * rates.std() / np.sqrt(len(rates))
    assert rates.mean() >= budget * (0.97 if n < 10 else 0.7) - 4 * rates.std() / np.sqrt(len(rates))
    assert all(point.extrapolated for point in points)
    assert np.mean(rates <= budget) >= points[0].confidence


@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=18), st.floats(0.001, 0.05))
def test_an_extrapolated_threshold_is_never_below_a_held_back_score(scores: list[float], budget: float) -> None:
    point = fit_operating_point(scores, budget)
    assert point.raw_threshold >= np.float32(max(scores))
    assert point.raw_threshold < 1 or max(scores) == 1
    assert point.guaranteed_false_reject == pytest.approx(1 / (len(scores) + 1))


def test_an_extrapolated_threshold_is_the_textbooks_prediction_limit() -> None:
    log_odds = np.array([-3.0, -2.5, -2.4, -1.9])
    limit = log_odds.mean() + stats.t.ppf(0.95, 3) * log_odds.std(ddof=1) * np.sqrt(1 + 1 / 4)
    point = fit_operating_point(1 / (1 + np.exp(-log_odds)), 0.05)
    assert point.raw_threshold == pytest.approx(1 / (1 + np.exp(-limit)), rel=1e-5)


def test_every_part_has_the_same_weight_in_the_prediction_limit() -> None:
    log_odds = np.array([-3.0, -2.9, -2.8, -2.7, -1.0, -0.5])
    names = ["often", "often", "often", "often", "once", "another"]
    parts = [log_odds[:4], log_odds[4:5], log_odds[5:]]
    mean = np.mean([part.mean() for part in parts])
    variance = np.mean([np.mean((part - mean) ** 2) for part in parts]) * 3 / 2
    limit = mean + stats.t.ppf(0.95, 2) * np.sqrt(variance * (1 + 1 / 3))
    point = fit_operating_point(1 / (1 + np.exp(-log_odds)), 0.05, names)
    assert point.raw_threshold == pytest.approx(1 / (1 + np.exp(-limit)), rel=1e-5)


@pytest.mark.parametrize("probability", [0.5, 0.8, 0.95, 0.99, 0.9999])
def test_students_quantile_is_scipys(probability: float) -> None:
    for freedom in (*range(1, 40), 99, 998):
        expected = stats.t.ppf(probability, freedom)
        assert _student(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "budget", "rank"), [(19, 0.05, 19), (20, 0.05, 20), (39, 0.05, 38), (99, 0.01, 99), (999, 0.001, 999)]
)
def test_rank_is_exact_where_binary_fractions_round_up(n: int, budget: float, rank: int) -> None:
    scores = (np.arange(n) + 1) / (n + 2)
    point = fit_operating_point(scores, budget)
    assert point.raw_threshold == np.float32(scores[rank - 1])
    assert point.guaranteed_false_reject == pytest.approx((n + 1 - rank) / (n + 1))
    assert point.certified


@pytest.mark.parametrize(("n", "budget"), [(1, 0.05), (5, 0.1), (40, 0.05), (200, 0.02)])
def test_confidence_is_the_beta_law(n: int, budget: float) -> None:
    point = fit_operating_point(np.linspace(0.1, 0.6, n), budget)
    exceeding = round(point.guaranteed_false_reject * (n + 1))
    assert point.confidence == pytest.approx(stats.beta.cdf(budget, exceeding, n + 1 - exceeding), abs=1e-9)


def test_too_few_images_are_reported_as_such() -> None:
    point = fit_operating_point([0.2, 0.3, 0.4], 0.05)
    assert point.raw_threshold > np.float32(0.4)
    assert point.guaranteed_false_reject == 0.25
    assert not point.certified
    told = point.explain()
    assert "too few to certify" in told
    assert "where 5.0% of good parts would lie if" in told
    assert "25.0%" in told
    assert "At least 19 held-back good images" in told


def test_two_images_say_nothing_of_a_spread() -> None:
    point = fit_operating_point([0.2, 0.3], 0.05)
    assert point.raw_threshold == np.float32(0.3)
    assert not point.extrapolated
    assert "normally distributed" not in point.explain()


def test_enough_images_are_explained() -> None:
    told = fit_operating_point(np.linspace(0.1, 0.5, 40), 0.05).explain()
    assert "40 held-back good images" in told
    assert "at most 4.9%" in told
    assert "too few" not in told


@given(st.floats(1e-6, 0.9))
def test_images_needed_is_the_smallest_number_that_certifies(budget: float) -> None:
    needed = images_needed(budget)
    assert (needed + 1) * budget >= 1 - 1e-9
    assert needed * budget < 1 + 1e-9


def test_one_image_and_a_tiny_budget() -> None:
    point = fit_operating_point([0.25], 1e-9)
    assert point.raw_threshold == 0.25
    assert point.guaranteed_false_reject == 0.5
    assert point.confidence == pytest.approx(1e-9, rel=1e-3)
    assert point.scale == 1.0
    assert "At least 999999999" in point.explain()


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 1.0])
def test_equal_scores_reject_nothing_like_them(value: float) -> None:
    point = fit_operating_point([value] * 30, 0.05)
    assert not point.is_anomalous([value]).any()
    assert point.calibrate([value])[0] == np.float32(0.5)


def test_ties_never_raise_the_false_rejects() -> None:
    scores = np.array([0.1] * 10 + [0.2] * 30)
    point = fit_operating_point(scores, 0.3)
    assert point.raw_threshold == np.float32(0.2)
    assert point.is_anomalous(scores).sum() == 0


raw_scores = st.floats(0, 1, width=32)


@given(st.lists(raw_scores, min_size=1, max_size=40), st.lists(raw_scores, min_size=1, max_size=40))
def test_calibration_is_monotone_and_decides_as_the_threshold(good: list[float], new: list[float]) -> None:
    point = fit_operating_point(good, 0.1)
    neighbours = np.nextafter(np.float32(point.raw_threshold), np.float32([0, 1])).clip(0, 1)
    raw = np.sort(np.concatenate([np.float32(new), neighbours, np.float32([point.raw_threshold, 0, 1])]))
    calibrated = point.calibrate(raw)
    assert calibrated.dtype == np.float32
    assert (np.diff(calibrated) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= 1)).all()
    np.testing.assert_array_equal(calibrated > 0.5, raw > np.float32(point.raw_threshold))
    np.testing.assert_array_equal(calibrated > 0.5, point.is_anomalous(raw))


def test_the_median_good_image_reads_a_tenth() -> None:
    good = np.linspace(0.1, 0.4, 101)
    point = fit_operating_point(good, 0.05)
    assert point.calibrate([np.median(good)])[0] == pytest.approx(0.1, abs=1e-3)


def test_round_trip_through_json_is_exact() -> None:
    point = fit_operating_point(np.random.default_rng(0).random(37), 0.07)
    assert OperatingPoint.from_dict(json.loads(json.dumps(point.to_dict()))) == point


def test_a_part_of_its_own_each_is_what_no_names_mean() -> None:
    scores = np.random.default_rng(1).random(50)
    plain = fit_operating_point(scores, 0.05)
    assert fit_operating_point(scores, 0.05, [""] * 50) == plain
    assert fit_operating_point(scores, 0.05, [f"part {number}" for number in range(50)]) == plain
    assert (plain.calibration_parts, plain.parts_above) == (50, 1)
    assert "at least" not in plain.explain()


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5]))
def test_an_image_a_part_is_split_conformal_prediction(scores: list[float], budget: float) -> None:
    n = len(scores)
    rank = min(n, math.ceil((n + 1) * (1 - Fraction(str(budget)))))
    point = fit_operating_point(scores, budget)
    wanted = np.float32(sorted(scores)[rank - 1])
    assert point.raw_threshold >= wanted if point.extrapolated else point.raw_threshold == wanted
    assert point.guaranteed_false_reject == pytest.approx((n + 1 - rank) / (n + 1))
    assert (point.calibration_parts, point.parts_above) == (n, n - rank)


def test_a_part_photographed_often_has_no_more_say() -> None:
    # 19 parts of one image each, and a twentieth of a hundred, all of them high.
    scores = np.concatenate([np.linspace(0.1, 0.2, 19), np.linspace(0.6, 0.9, 100)])
    point = fit_operating_point(scores, 0.1, [f"part {number}" for number in range(19)] + ["odd"] * 100)
    # The part to come weighs 1/21, each image of the odd one 1/2100, so that all of them and none else may lie above.
    assert point.raw_threshold == np.float32(0.2)
    assert (point.calibration_parts, point.parts_above) == (20, 1)
    assert point.guaranteed_false_reject == 0.1
    assert fit_operating_point(scores, 0.1).raw_threshold > 0.8


def test_few_parts_certify_nothing_however_many_images() -> None:
    scores = np.random.default_rng(2).random(200)
    point = fit_operating_point(scores, 0.05, [f"part {number % 10}" for number in range(200)])
    assert point.raw_threshold >= np.float32(scores.max())
    assert point.guaranteed_false_reject == pytest.approx(1 / 11)
    assert not point.certified
    told = point.explain()
    assert "200 held-back good images of 10 parts" in told
    assert f"is at least {point.confidence:.0%}" in told
    assert "At least 19 held-back good images of as many different parts" in told


SIZES = {"even": [6] * 40, "uneven": [1, 2, 3, 5, 8, 11] * 7, "few large": [1] * 25 + [60] * 5}


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=list(SIZES))
def test_parts_of_several_images_keep_guarantee_and_confidence_in_simulation(alike: float, sizes: list[int]) -> None:
    rng = np.random.default_rng(7)
    budget, draws = 0.1, 300
    names = np.repeat(np.arange(len(sizes)), sizes)

    def scores_of(owners: np.ndarray) -> np.ndarray:
        own = rng.standard_normal(owners.max() + 1)
        return stats.norm.cdf(np.sqrt(alike) * own[owners] + np.sqrt(1 - alike) * rng.standard_normal(len(owners)))

    points = [fit_operating_point(scores_of(names), budget, [str(name) for name in names]) for _ in range(draws)]
    # Of a further part the score of one image is uniform, whatever it shares with the part's other images.
    rates = np.array([1 - point.raw_threshold for point in points])
    assert rates.mean() <= points[0].guaranteed_false_reject + 3 * rates.std() / np.sqrt(draws)
    assert np.mean(rates <= budget) >= np.mean([point.confidence for point in points]) - 3 / np.sqrt(draws)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from("abcdefgh")), min_size=1, max_size=60))
def test_what_lies_above_weighs_no_more_than_the_budget(images: list[tuple[float, str]]) -> None:
    scores, names = np.float32([score for score, _ in images]), [name for _, name in images]
    point = fit_operating_point(scores, 0.3, names)
    groups = len(set(names))

    def weight(threshold: float) -> float:
        above = [name for score, name in zip(scores, names, strict=True) if score > threshold]
        return (1 + sum(1 / names.count(name) for name in above)) / (groups + 1)

    assert weight(point.raw_threshold) <= max(0.3, 1 / (groups + 1)) + 1e-9
    lower = scores[scores < point.raw_threshold]
    assert point.extrapolated or not len(lower) or weight(lower.max()) > 0.3 - 1e-9


def test_as_many_parts_as_scores() -> None:
    with pytest.raises(ValueError, match="2 parts for 3"):
        fit_operating_point([0.1, 0.2, 0.3], 0.05, ["a", "b"])


@pytest.mark.parametrize(
    "change", [{"scale": -1.0}, {"budget": "x"}, {"raw_threshold": float("nan")}, {"raw_threshold": 2}, {"more": 1}]
)
def test_damaged_values_are_refused(change: dict[str, object]) -> None:
    values = fit_operating_point([0.1, 0.2], 0.1).to_dict()
    with pytest.raises(UserError, match="operating point"):
        OperatingPoint.from_dict({**values, **change})


@pytest.mark.parametrize(
    ("scores", "budget"), [([], 0.05), ([0.1, np.nan], 0.05), ([1.2], 0.05), ([-0.1], 0.05), ([0.1], 0.0), ([0.1], 1.0)]
)
def test_bad_input_is_refused(scores: list[float], budget: float) -> None:
    with pytest.raises(ValueError, match=r"good image|budget"):
        fit_operating_point(scores, budget)
