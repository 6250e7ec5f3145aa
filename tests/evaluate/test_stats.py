"""Intervals: textbook values, and the coverage they promise."""

import math

import numpy as np
import pytest

from alignax.evaluate.stats import Estimate, estimate, over_seeds, wilson


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
