"""Intervals: textbook values, and the coverage they promise."""

import math

import numpy as np
import pytest

from alignax.evaluate.stats import Estimate, estimate, numbered, over_seeds, wilson, worth


def test_wilson_matches_values_worked_by_hand():
    # 8 of 10, z = 1.95996: centre (0.8 + 0.192073) / 1.384146 = 0.716741,
    # half 1.95996 / 1.384146 * sqrt(0.016 + 0.0096036) = 0.226578.
    assert wilson(0.8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    # 0 of 10: from 0 to z^2 / (10 + z^2) = 3.841459 / 13.841459.
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.277533), abs=1e-5)


def test_shares_get_wilsons_interval_and_other_numbers_a_bootstrap():
    share = estimate(np.array([1.0] * 8 + [0.0] * 2), share=True)
    assert (share.mean, share.n) == (0.8, 10)
    assert (share.low, share.high) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    constant = estimate(np.zeros(10))
    assert (constant.mean, constant.low, constant.high) == (0.0, 0.0, 0.0)


def test_bootstrap_intervals_cover_the_mean_about_as_often_as_they_say():
    # 95% nominal. The percentile bootstrap of 40 normal numbers covers a little less, about 94%;
    # of 300 trials, 5 standard deviations (1.3% each) below that is 87.5%.
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        found = estimate(draw.normal(3.0, 2.0, 40), seed=trial)
        covered += found.low <= 3.0 <= found.high
    assert 0.875 < covered / 300 < 0.99


def test_intervals_of_four_prompts_cover_the_mean_where_a_bootstraps_do_so_four_times_in_five():
    # Of 600 trials, 5 standard deviations (0.9% each) below 95% is 90.5%; the bootstrap has 80%.
    draw = np.random.default_rng(0)
    found = [estimate(draw.normal(3.0, 2.0, 4)) for _ in range(600)]
    assert 0.905 < np.mean([x.low <= 3.0 <= x.high for x in found]) < 0.99


def test_few_prompts_get_students_interval():
    values = np.array([1.0, 2.0, 3.0])
    assert estimate(values) == pytest.approx(over_seeds(values))
    # A share's is cut off: here it is 0.9 plus and minus 2.7764 * 0.1.
    share = estimate(np.array([1.0, 1.0, 1.0, 1.0, 0.5]), share=True)
    assert (share.low, share.high) == (pytest.approx(0.9 - 0.277645, abs=1e-5), 1.0)


def test_values_of_one_prompt_are_no_more_prompts():
    # Prompts with the sums 3 and 4 of 3 values and 1; the mean is 7 / 4. Without the first prompt
    # it would be 4, without the second 1: half of 2.25^2 + 0.75^2 is 2.8125. t of 1 degree of
    # freedom is 12.706205.
    found = estimate(np.array([1.0, 1.0, 1.0, 4.0]), prompts=np.array([0, 0, 0, 1]))
    assert (found.mean, found.n) == (1.75, 2)
    half = 12.706205 * math.sqrt(2.8125)
    assert (found.low, found.high) == pytest.approx((1.75 - half, 1.75 + half), rel=1e-6)
    one = estimate(np.array([1.0, 2.0]), prompts=np.array([0, 0]))
    assert one == Estimate(1.5, -math.inf, math.inf, 1)


@pytest.mark.parametrize("n", [8, 40])
def test_the_same_value_again_tells_nothing_more(n):
    values = np.random.default_rng(3).normal(0.0, 1.0, n)
    again = estimate(np.tile(values, 28), prompts=np.tile(np.arange(n), 28))
    assert again == pytest.approx(estimate(values))
    assert estimate(values, prompts=np.arange(n)) == estimate(values)  # to the bit


@pytest.mark.parametrize("n", [8, 32])
def test_intervals_over_prompts_with_many_groups_cover_the_mean(n):
    # Half of the variance is between prompts. As if 28 n values were independent, 39% cover it.
    draw, prompts = np.random.default_rng(1), np.repeat(np.arange(n), 28)
    covered = []
    for _ in range(300):
        values = draw.normal(0.0, 1.0, (n, 1)) + draw.normal(0.0, 1.0, (n, 28))
        found = estimate(values.ravel(), prompts=prompts)
        covered.append(found.low <= 0.0 <= found.high)
    assert np.mean(covered) > 0.87


@pytest.mark.parametrize("n", [5, 60])
def test_a_mean_over_tokens_varies_by_what_a_token_says_and_not_by_lengths(n):
    tokens = np.random.default_rng(4).integers(1, 500, n).astype(np.float64)
    found = estimate(2.0 * tokens, weights=tokens)
    assert tuple(found) == pytest.approx((2.0, 2.0, 2.0, n), abs=1e-12)
    nothing = estimate(np.append(2.0 * tokens, 0.0), weights=np.append(tokens, 0.0))
    assert nothing == found


def test_shares_of_several_answers_to_a_prompt_never_have_an_interval_of_width_0():
    prompts = np.repeat(np.arange(32), 4)
    every = estimate(np.ones(128), prompts=prompts, share=True)
    assert (every.low, every.high, every.n) == (*wilson(1.0, 32), 32)
    but_one = estimate(np.append(np.ones(127), 0.0), prompts=prompts, share=True)
    assert but_one.n == 32
    assert wilson(127 / 128, 32)[0] < but_one.low < wilson(127 / 128, 128)[0]
    alike = np.repeat([1.0] * 24 + [0.0] * 8, 4)
    found = estimate(alike, prompts=prompts, share=True)
    assert (found.low, found.high) == wilson(0.75, 32)


def test_answers_to_a_prompt_are_worth_as_much_as_they_differ():
    # 40 prompts of 2 answers: 10 of yes, 10 of no, 20 of one each. With the 2 prompts that are
    # added, 22 of 42 are 1 from the share of 1/2: 40 / (22 / 42) = 76.3636. t of 39 degrees of
    # freedom is 2.022691, so that (1.959964 / 2.022691)^2 of it remains.
    yes = np.array([2.0] * 10 + [0.0] * 10 + [1.0] * 20)
    assert worth(yes, np.full(40, 2.0)) == pytest.approx(71.7006, abs=1e-3)
    assert worth(np.array([2.0, 0.0] * 20), np.full(40, 2.0)) == 40  # alike
    assert worth(np.ones(40), np.full(40, 2.0)) == 80  # one each: no less than 80 answers
    # Of 9 answers to one prompt and 1 to another little more than one is there: 100 / 82.
    assert worth(np.array([9.0, 0.0]), np.array([9.0, 1.0])) == pytest.approx(100 / 82)


def test_keys_are_numbered_as_they_come():
    assert numbered([b"x", b"y", b"x"]).tolist() == [0, 1, 0]
    assert numbered([]).tolist() == []


def test_the_bootstraps_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(0.0, 1.0, 400)
    found = estimate(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_one_value_tells_nothing_of_the_spread_and_none_tells_nothing():
    one = estimate(np.array([2.5]))
    assert (one.mean, one.low, one.high) == (2.5, -math.inf, math.inf)
    none = estimate(np.array([]))
    assert none.n == 0
    assert math.isnan(none.mean)


def test_seeds_get_students_interval():
    # 1, 2, 3: mean 2, deviation 1; t of 2 degrees of freedom is 4.302653, over the root of 3.
    found = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.n) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert over_seeds(np.array([2.5])) == Estimate(2.5, -math.inf, math.inf, 1)


def test_an_interval_is_the_same_every_time_it_is_asked_for():
    values = np.random.default_rng(2).normal(0.0, 1.0, 50)
    assert estimate(values) == estimate(values)
    assert estimate(values) != estimate(values, seed=1)


def test_wilsons_interval_mirrors_for_the_complement_and_stays_within_0_and_1():
    for n in (1, 10, 1000):
        for successes in (0, n // 3, n):
            low, high = wilson(successes / n, n)
            assert 0.0 <= low < high <= 1.0
            mirrored = wilson(1 - successes / n, n)
            assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)


def test_prints_the_mean_with_its_interval():
    assert str(estimate(np.array([1.0] * 8 + [0.0] * 2), share=True)) == "0.800 [0.490, 0.943]"


def test_large_numbers_are_shown_with_fewer_decimals():
    assert str(Estimate(-48.9434, -104.789, 9.8765, 60)) == "-48.94 [-104.79, 9.88]"
    assert str(Estimate(8.3504, 6.9617, 9.8971, 32)) == "8.350 [6.962, 9.897]"
