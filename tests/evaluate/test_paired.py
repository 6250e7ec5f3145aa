"""Means and differences over seeds and prompts: values by hand, coverage, error rates, power."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import ndtr

from alignax.evaluate.paired import Difference, at_budget, crossed, difference, iqm, spread
from alignax.evaluate.stats import Estimate
from alignax.evaluate.verdicts import coverage


def experiments(draw, n, *, seeds=8, prompts=64, deviations=(0.35, 1.0, 1.0)):
    """n arrays [seeds, prompts] with normal effects of both, and mean 0."""
    of_seeds, of_prompts, of_rest = deviations
    return (
        of_seeds * draw.standard_normal((n, seeds, 1))
        + of_prompts * draw.standard_normal((n, 1, prompts))
        + of_rest * draw.standard_normal((n, seeds, prompts))
    )


def test_the_standard_error_of_a_table_worked_by_hand():
    # Rows 1, 2 and 3, 6: mean 3, rows 1.5 and 4.5, columns 2 and 4, the rest 0.5 and -0.5.
    # A = 2 (1.5^2 + 1.5^2) / 1 = 9, B = 2 (1 + 1) / 1 = 4, E = 4 (0.25) / 1 = 1.
    # (1 + 8 + 3) / 4 = 3; degrees of freedom 12^2 / (81 + 16 + 1).
    found = spread(np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert float(found.mean) == 3.0
    assert float(found.error) == pytest.approx(math.sqrt(3))
    assert float(found.freedom) == pytest.approx(144 / 98)


def test_no_component_of_variance_is_below_zero():
    # Rows 0, 4 and 4, 2: mean 2.5, rows 2 and 3, columns 2 and 3, the rest -1.5 and 1.5.
    # A = B = 2 (0.25 + 0.25) = 1 and E = 4 (2.25) = 9: A + B - E would be a variance of -7.
    found = spread(np.array([[0.0, 4.0], [4.0, 2.0]]))
    assert float(found.error) == pytest.approx(math.sqrt(9 / 4))
    assert float(found.freedom) == pytest.approx(81 / (1 + 1 + 81))


def test_where_only_seeds_or_only_prompts_differ_the_interval_is_students():
    # Three numbers 1, 2, 3: 4.302653 / sqrt(3) = 2.484138 (t of 2 degrees of freedom).
    seeds = np.repeat([[1.0], [2.0], [3.0]], 5, axis=1)
    for values, n in ((seeds, 3), (seeds.T, 5)):
        found = crossed(values)
        assert (found.mean, found.n) == (2.0, n)
        assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_the_variance_is_that_of_all_crossed_resamples_less_their_bias():
    # 3 x 3 without interaction: each part of the bootstrap's variance is (3 - 1) / 3 of an
    # unbiased one. All 27 x 27 resamples are equally likely.
    values = np.array([[1.0], [2.0], [6.0]]) + np.array([[0.0, 5.0, 7.0]])
    draws = list(itertools.product(range(3), repeat=3))
    means = [values[np.ix_(rows, columns)].mean() for rows in draws for columns in draws]
    assert float(spread(values).error) ** 2 == pytest.approx(1.5 * np.var(means))


def test_the_variance_is_right_on_average_and_counts_interaction_once():
    # 0.5^2 / 4 + 1 / 16 + 2^2 / (4 x 16) = 0.1875; the bootstrap's would be 0.255:
    # A = 8, B = 8, E = 4 on average, so (8 x 3 / 4 + 8 x 15 / 16 + 4 x 45 / 64) / 64.
    draw = np.random.default_rng(0)
    values = experiments(draw, 4000, seeds=4, prompts=16, deviations=(0.5, 1.0, 2.0))
    assert np.mean(spread(values).error ** 2) == pytest.approx(0.1875, rel=0.12)
    assert np.var(spread(values).mean) == pytest.approx(0.1875, rel=0.12)


@pytest.mark.parametrize(
    "deviations", [(0.35, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.1), (0.0, 1.0, 0.3)]
)
def test_intervals_of_eight_seeds_cover_the_mean_95_times_in_100(deviations):
    # 4,000 trials: a standard deviation of 0.34%, so three either side.
    assert coverage(8, 64, 4000, deviations=deviations) == pytest.approx(0.95, abs=0.0103)


def test_intervals_are_wide_rather_than_narrow_where_all_is_noise():
    assert 0.95 < coverage(8, 64, 4000, deviations=(0.0, 0.0, 1.0)) < 0.995


def test_one_seed_or_one_prompt_tells_nothing_of_the_next():
    for shape, n in (((1, 4), 1), ((4, 1), 4)):
        values = np.arange(4.0).reshape(shape)
        assert crossed(values) == Estimate(1.5, -math.inf, math.inf, n)
        assert difference(values + 1, values) == Difference(
            Estimate(1.0, -math.inf, math.inf, n), 1.0, math.inf, 1.0
        )


def test_two_seeds_give_a_finite_interval():
    found = crossed(np.random.default_rng(0).normal(3.0, 1.0, (2, 64)))
    assert math.isfinite(found.low)
    assert found.low < found.mean < found.high


def test_what_seeds_and_prompts_do_to_both_methods_cancels():
    # The difference is 0.5 and noise of 0.1 x sqrt(2) over 8 x 64 numbers: an error near 0.00625.
    draw = np.random.default_rng(0)
    shared = 5 * draw.standard_normal((8, 1)) + 5 * draw.standard_normal((1, 64))
    first = shared + 0.5 + 0.1 * draw.standard_normal((8, 64))
    second = shared + 0.1 * draw.standard_normal((8, 64))
    found = difference(first, second)
    assert abs(found.estimate.mean - 0.5) < 0.03
    assert found.estimate.high - found.estimate.low < 0.06
    assert crossed(first).high - crossed(first).low > 1


def test_the_test_errs_in_one_comparison_of_twenty_and_finds_what_it_calls_detectable():
    draw = np.random.default_rng(1)
    shared = experiments(draw, 2000)
    firsts = shared + experiments(draw, 2000, deviations=(0.3, 0.3, 0.5))
    seconds = shared + experiments(draw, 2000, deviations=(0.3, 0.3, 0.5))
    nothing = [difference(a, b) for a, b in zip(firsts, seconds, strict=True)]
    # 2,000 trials: standard deviations of 0.5% and 0.9%.
    assert np.mean([found.p < 0.05 for found in nothing]) == pytest.approx(0.05, abs=0.015)
    # `detectable` is itself an estimate; its root mean square is that of the true standard error.
    size = math.sqrt(np.mean([found.detectable() ** 2 for found in nothing]))
    there = [difference(a + size, b) for a, b in zip(firsts, seconds, strict=True)]
    assert np.mean([found.p < 0.05 for found in there]) == pytest.approx(0.8, abs=0.03)


def test_the_p_value_is_below_5_percent_exactly_where_the_interval_is_off_zero():
    values = experiments(np.random.default_rng(2), 400) + np.linspace(-1, 1, 400)[:, None, None]
    found = [difference(x, np.zeros((8, 64))) for x in values]
    off = [f.estimate.low > 0 or f.estimate.high < 0 for f in found]
    assert 50 < sum(off) < 350
    assert [f.p < 0.05 for f in found] == off


def test_students_test_finds_what_is_detectable_four_times_in_five():
    # Seeds of 0 and 1 in turn: a deviation of sqrt(8 / 7) / 2, over sqrt(8) an error of 0.188982,
    # 7 degrees of freedom. The mean is normal; the error found is c times the true one, c^2 being
    # chi-squared over 7, of density c^6 exp(-3.5 c^2); the mean must be 2.364624 of those off 0.
    seeds = np.repeat(np.array([[0.0], [1.0]] * 4), 3, axis=1)
    size = difference(seeds, np.zeros((8, 3))).detectable()
    c = np.linspace(0, 5, 50001)
    density = c**6 * np.exp(-3.5 * c**2)
    found = ndtr(size / 0.188982 - 2.364624 * c)
    assert np.sum(found * density) / np.sum(density) == pytest.approx(0.8, abs=1e-5)


def test_one_of_many_tests_must_be_as_sure_as_all_of_them_together():
    # As above, but beyond t of 7 degrees of freedom at 0.05 / 10 = 0.005, two-sided: 4.029337.
    seeds = np.repeat(np.array([[0.0], [1.0]] * 4), 3, axis=1)
    size = difference(seeds, np.zeros((8, 3))).detectable(tests=10)
    c = np.linspace(0, 5, 50001)
    density = c**6 * np.exp(-3.5 * c**2)
    found = ndtr(size / 0.188982 - 4.029337 * c)
    assert np.sum(found * density) / np.sum(density) == pytest.approx(0.8, abs=1e-5)


def test_methods_that_are_the_same_do_not_differ_and_a_constant_is_certain():
    values = np.random.default_rng(3).normal(size=(8, 64))
    nothing = Difference(Estimate(0.0, 0.0, 0.0, 8), 1.0, 0.0, 1.0)
    assert difference(values, values) == nothing
    always = difference(np.full((8, 64), 0.5), np.zeros((8, 64)))
    assert always == Difference(Estimate(0.5, 0.5, 0.5, 8), 0.0, 0.0, 1.0)


def test_the_order_of_seeds_and_prompts_does_not_matter_and_the_sign_is_the_order_of_methods():
    draw = np.random.default_rng(4)
    first, second = experiments(draw, 2)
    found = difference(first, second)
    rows, columns = draw.permutation(8), draw.permutation(64)
    moved = difference(first[rows][:, columns], second[rows][:, columns])
    assert moved.estimate == pytest.approx(found.estimate)
    assert (moved.p, moved.detectable()) == pytest.approx((found.p, found.detectable()))
    turned = difference(second, first)
    assert turned.estimate.mean == pytest.approx(-found.estimate.mean)
    assert turned.estimate.low == pytest.approx(-found.estimate.high)
    assert turned.p == pytest.approx(found.p)


def test_a_method_with_other_seeds_or_prompts_is_refused():
    for shape in ((7, 64), (8, 1)):
        with pytest.raises(ValueError, match=r"needs the same seeds and prompts, not \(8, 64\)"):
            difference(np.zeros((8, 64)), np.zeros(shape))


def test_the_interquartile_mean_is_the_middle_half_of_the_seeds_means():
    # Means over prompts 1 to 8 (each seed's prompts differ by 2): 3, 4, 5, 6 are left.
    scores = np.array([5.0, 1.0, 8.0, 3.0, 2.0, 7.0, 4.0, 6.0])
    values = scores[:, None] + np.array([[-1.0, 1.0]])
    assert iqm(values).mean == pytest.approx(4.5)
    values[2] = 1000.0  # the best run, or the worst, may be anything
    values[1] = -1000.0
    assert iqm(values).mean == pytest.approx(4.5)
    # Of five, one is cut at each end: 2, 3, 5 of 1, 2, 3, 5, 9.
    assert iqm(np.array([[9.0], [1.0], [5.0], [3.0], [2.0]])).mean == pytest.approx(10 / 3)


def test_of_three_seeds_none_is_cut():
    values = np.random.default_rng(5).normal(size=(3, 64))
    assert iqm(values) == crossed(values)


def test_the_interquartile_means_interval_is_the_percentiles_of_all_crossed_resamples():
    values = np.random.default_rng(6).normal(size=(4, 3))
    draws = itertools.product(
        itertools.product(range(4), repeat=4), itertools.product(range(3), repeat=3)
    )
    every = np.array(
        [np.sort(values[np.ix_(rows, columns)].mean(1))[1:3].mean() for rows, columns in draws]
    )
    found = iqm(values)
    # 2,000 of them are drawn: a standard deviation of 0.35% at each end.
    assert np.mean(every < found.low) == pytest.approx(0.025, abs=0.0105)
    assert np.mean(every > found.high) == pytest.approx(0.025, abs=0.0105)


def test_interquartile_means_of_eight_seeds_are_covered():
    # 300 trials: a standard deviation of 1.3%; what is symmetric has its mean as its middle.
    found = [iqm(x, seed=i) for i, x in enumerate(experiments(np.random.default_rng(7), 300))]
    assert 0.92 < np.mean([f.low <= 0 <= f.high for f in found]) < 0.995


def test_a_curve_is_read_at_a_budget_between_its_points():
    # Seed 0 is halfway from 1 to 3, seed 1 at its second point; at 1 both stand at their first.
    flops = np.array([[1.0, 3.0, 4.0], [1.0, 2.0, 8.0]])
    values = np.array(
        [[[0.0, 10.0], [2.0, 20.0], [9.0, 9.0]], [[1.0, 1.0], [5.0, 6.0], [7.0, 8.0]]]
    )
    assert at_budget(flops, values, 2.0).tolist() == [[1.0, 15.0], [5.0, 6.0]]
    assert at_budget(flops, values, 1.0).tolist() == [[0.0, 10.0], [1.0, 1.0]]
    # A third of the way from 2 to 8 is 4, the last that both reached.
    assert at_budget(flops, values, 4.0) == pytest.approx(
        np.array([[9.0, 9.0], [5 + 2 / 3, 6 + 2 / 3]])
    )


def test_a_curve_is_not_continued_beyond_its_points():
    flops = np.array([[1.0, 3.0, 4.0], [2.0, 3.0, 8.0]])
    values = np.zeros((2, 3, 5))
    for budget in (1.5, 4.1):
        with pytest.raises(
            ValueError, match=rf"between 2 and 4 flops.*nothing is known at {budget}"
        ):
            at_budget(flops, values, budget)
    with pytest.raises(ValueError, match="must rise"):
        at_budget(np.array([[1.0, 1.0]]), values[:1, :2], 1.0)
