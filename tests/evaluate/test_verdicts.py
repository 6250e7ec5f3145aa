"""Holm's adjustment by hand; verdicts that need it; checks that fail when they must."""

import numpy as np
import pytest
from scipy.special import nctdtr, stdtrit

from alignax.evaluate import paired, verdicts
from alignax.evaluate.paired import Difference, difference, of_squares
from alignax.evaluate.stats import Estimate
from alignax.evaluate.verdicts import (
    RATIOS,
    aa_check,
    coverage,
    coverage_check,
    false_verdicts,
    halves_check,
    holm,
    rare_failures,
    rare_failures_limit,
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


def halves(n: int, apart: int) -> dict[str, np.ndarray]:
    """Entries of 8 seeds in pairs that are alike, so halves are; in the first few one is 1 more."""
    pairs = np.random.default_rng(4).normal(size=(n, 4, 16))
    values = np.repeat(pairs, 2, axis=1)
    values[:apart, 1::2] += 1.0
    return {f"entry {i}": x for i, x in enumerate(values)}


def test_so_many_entries_that_differ_from_themselves_fail_as_are_improbable():
    # Of 10 at 0.05: 5 or more have 252 x 0.05^5 x 0.95^5 + 210 x 0.05^6 x 0.95^4 + ... = 0.00006,
    # 4 or more 210 x 0.05^4 x 0.95^6 = 0.00096 more: 0.00103.
    passed = halves_check(halves(10, 4))
    assert passed.passed
    assert passed.found == (
        "4 of 10 entries differ between two halves of their seeds at 0.05"
        " (entry 0, entry 1, entry 2, entry 3); 0.5 are expected at most, and 5 or more,"
        " which have a probability below 0.001, would fail"
    )
    assert halves_check(halves(10, 5)).passed is False
    assert halves_check(halves(10, 0)).found.startswith("0 of 10 entries differ between two halves")


def test_of_three_entries_all_must_differ_and_two_tell_nothing():
    # 0.05^3 is 0.000125, and 0.05^2 is 0.0025: above 0.001 however the two come out.
    assert halves_check(halves(3, 2)).passed is True
    assert halves_check(halves(3, 3)).passed is False
    two = halves_check(halves(2, 2))
    assert two == (None, "2 entries to split are too few to tell anything")


def test_entries_that_cannot_be_split_are_left_out_and_counted():
    made = halves(6, 0)
    made["entry 0"] = made["entry 0"][:3]
    made["entry 1"] = np.empty((0, 16))  # no run ended
    made["entry 2"] = np.ones((8, 1)) * made["entry 2"][:1]
    found = halves_check(made)
    assert found.passed
    assert found.found.startswith("0 of 3 entries differ")
    assert found.found.endswith(
        "; left out: 2 with fewer than 4 seeds, 1 whose seeds are all the same"
    )
    none = halves_check({"entry": np.ones((3, 4))})
    assert none.passed is None
    assert none.found.endswith("tell anything; left out: 1 with fewer than 4 seeds")


def test_the_last_of_an_odd_number_of_seeds_is_put_aside():
    made = {name: np.concatenate([x, x[:1] + 100]) for name, x in halves(3, 3).items()}
    assert halves_check(made).passed is False  # with it, the halves could not be told apart


def test_halves_of_normal_seeds_pass_and_errors_said_half_as_large_fail(monkeypatch):
    def too_sure(squares, s, b):
        error, freedom = of_squares(squares, s, b)
        return error / 2, freedom

    # Of Student's t with 3 degrees of freedom 5% are beyond 3.18, and 21% beyond half of it: 42 of
    # 200, where 10 are expected and 22 would fail (21 or more have 0.00116).
    generator = np.random.default_rng(6)
    made = {str(i): np.tile(generator.normal(size=(8, 1)), (1, 4)) for i in range(200)}
    assert halves_check(made).passed
    monkeypatch.setattr(paired, "of_squares", too_sure)
    assert halves_check(made).passed is False


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


def test_a_method_that_fails_seldom_is_taken_for_better_where_none_of_its_seeds_fails():
    """Without other deviation the shares are sums of binomial probabilities."""
    # Of 2 seeds none fails with 0.81, and both do with 0.01: all numbers are the same, so p is 0.
    # Where one does the mean is -0.8 and its error 1: p is 0.57.
    shares = rare_failures(2, (0.05, 1e-9), trials=3, deviation=0.0)
    assert shares == pytest.approx([0.82, 0.82], abs=1e-12)
    # Of 8 seeds k fail: t is (0.2 - k / 4) sqrt(8) over the root of 4 k (8 - k) / (8 x 7), -2.1 at
    # 4, within 2.36, and -2.9 at 5. So 0.9^8 = 0.43047 and the probability of 5 or more, 0.00043.
    # At 0.0001 t must be beyond 7.9, and is 6.2 at 7: of failures only all 8 at once, 1e-8.
    shares = rare_failures(8, (0.05, 0.0001), trials=3, deviation=0.0)
    assert shares == pytest.approx([0.43047 + 0.00043, 0.43047], abs=1e-5)


def test_where_no_seed_fails_verdicts_are_as_frequent_as_the_noncentral_t_distribution_says():
    # A gain of 0.2 in eight seeds that deviate by 0.1. So far out failures give no verdicts.
    level = 0.05 / 630
    beyond = 1 - nctdtr(7, 0.2 * np.sqrt(8) / 0.1, stdtrit(7, 1 - level / 2))
    (share,) = rare_failures(8, (level,), trials=100_000)
    assert share == pytest.approx(0.9**8 * beyond, abs=0.0018)  # three deviations of 0.0006


def test_a_method_that_never_fails_gives_as_many_false_verdicts_as_are_allowed():
    shares = rare_failures(8, (0.05, 0.01), trials=200_000, often=0.0)
    assert shares == pytest.approx([0.05, 0.01], abs=0.0015)  # three deviations of 0.0005


def test_rare_failures_are_a_limit_with_its_figures_and_no_check():
    found = rare_failures_limit(8, 630)
    assert found.passed is None
    # Nearly all of the 0.43 in which no seed fails: a gain of 5.7 errors is beyond 2.36.
    assert ": 43% false verdicts at 0.05, and " in found.found
    assert " at 0.05 / 630 (" in found.found
    assert found.found.endswith(
        "with a probability of 43% none of 8 seeds fails, and no test of 8 seeds sees this"
    )
