"""Holm's adjustment by hand; verdicts that need it; checks that fail when they must."""

import numpy as np
import pytest

from alignax.evaluate import verdicts
from alignax.evaluate.paired import Difference, difference, of_squares
from alignax.evaluate.stats import Estimate
from alignax.evaluate.verdicts import (
    RATIOS,
    aa_check,
    coverage,
    coverage_check,
    false_verdicts,
    holm,
    tail_check,
    verdict,
)


def test_holms_p_values_worked_by_hand():
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2 = 0.06, then 0.04 x 1, which may not be below 0.06.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.7, 0.6])).tolist() == [1.0, 1.0]
    assert holm(np.array([0.3])).tolist() == [0.3]
    assert holm(np.array([])).tolist() == []


def test_holm_keeps_the_order_of_p_values_and_lowers_none():
    p_values = np.random.default_rng(0).uniform(size=200) ** 4
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


def test_families_without_a_difference_give_a_false_verdict_one_time_in_twenty():
    # 2,000 families of 10 independent tests; uncorrected, 40% would have one. 0.5% deviation.
    families = np.random.default_rng(1).uniform(size=(2000, 10))
    assert np.mean([holm(x).min() < 0.05 for x in families]) == pytest.approx(0.05, abs=0.015)


def test_a_verdict_needs_the_adjusted_p_value_and_takes_the_sign_of_the_difference():
    up = Difference(Estimate(0.2, 0.1, 0.3, 8), 0.001, 0.1, 7.0)
    down = Difference(Estimate(-0.2, -0.3, -0.1, 8), 0.001, 0.1, 7.0)
    assert (verdict(up, 0.049), verdict(down, 0.049)) == ("better", "worse")
    assert (verdict(up, 0.05), verdict(down, 1.0)) == ("inconclusive", "inconclusive")
    assert verdict(up, 0.02, level=0.01) == "inconclusive"


def test_ties_and_single_seeds_are_inconclusive():
    values = np.random.default_rng(2).normal(size=(8, 16))
    for found in (difference(values, values), difference(values[:1] + 9, values[:1])):
        assert verdict(found, float(holm(np.array([found.p]))[0])) == "inconclusive"


def test_a_method_against_itself_passes_and_one_that_drifts_with_the_seed_fails():
    values = np.random.default_rng(3).normal(size=(16, 64))
    passed = aa_check(values)
    assert passed.passed
    assert passed.found.startswith("two halves of 8 seeds do not differ: ")
    values[8:] += 1.0
    failed = aa_check(values)
    assert not failed.passed
    assert failed.found.startswith("two halves of 8 seeds differ: -")


def test_halves_that_are_no_halves_are_refused():
    for seeds in (2, 5):
        with pytest.raises(ValueError, match=f"two seeds or more are compared, not {seeds} seeds"):
            aa_check(np.zeros((seeds, 4)))


def test_the_coverage_check_passes_for_eight_seeds_and_says_that_two_are_too_few():
    enough = coverage_check(8, 64)
    assert enough.passed
    # 99% of binomial numbers of 2,000 at 0.95 lie in 1900 +- 2.576 x 9.75 = 1875 to 1925.
    assert "of 2,000 intervals from 8 seeds and 64 prompts" in enough.found
    assert enough.found.endswith("95% but for chance is 93.7% to 96.2%")
    assert not coverage_check(2, 64).passed


def test_no_more_verdicts_of_hundreds_are_false_than_should_be():
    found = tail_check(8, 64, 630)
    assert found.passed
    # 0.05 / 630 is 79.4 in a million; of 500,000, 39.7 with a root of 6.3, of which 2.33 are 14.7.
    assert found.found.endswith("79 may be, and 109 by chance")
    for seeds in (2, 3, 4):
        assert tail_check(seeds, 64, 630, trials=100_000).passed


def test_of_one_prompt_no_verdict_is_given_so_none_is_false():
    assert tail_check(8, 1, 10).passed


def test_where_seeds_alone_vary_much_the_test_of_differences_is_students():
    """A 30th of the variance of the mean is not the seeds': 0.05 less some hundredths of it."""
    shares = false_verdicts(8, 64, 0.05, 400_000)
    assert shares[RATIOS.index((30.0, 1.0))] == pytest.approx(0.0495, abs=0.001)
    assert (shares < 0.05).all()


def test_errors_that_are_said_too_small_far_out_are_caught(monkeypatch):
    def too_sure(squares, s, b):
        error, freedom = of_squares(squares, s, b)
        return 0.9 * error, freedom

    monkeypatch.setattr(verdicts, "of_squares", too_sure)
    assert not tail_check(8, 64, 630).passed


def test_coverage_is_the_same_every_time_it_is_asked_for():
    assert coverage(4, 16, 500) == coverage(4, 16, 500)
    assert coverage(4, 16, 500) != coverage(4, 16, 500, seed=1)
