"""RRHF charges each pair whose log-probabilities are ordered against their scores."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from alignax.losses import rrhf

LOGPROBS, SCORES = jnp.array([-3.0, -2.5, -4.0]), jnp.array([1.0, 0.2, -0.5])  # fixture B


def test_value_and_gradient_of_fixture_b():
    # Only the second is too probable: -2.5 > -3 though 0.2 < 1. -2.5 + 3 = 0.5.
    value, gradient = jax.value_and_grad(rrhf)(LOGPROBS, SCORES)
    assert value == 0.5
    np.testing.assert_array_equal(gradient, [-1.0, 1.0, 0.0])


def test_sums_over_all_wrong_pairs():
    # Wholly reversed: (-1) - (-2), (-1) - (-4), (-2) - (-4) are 1, 3 and 2.
    assert rrhf(jnp.array([-4.0, -2.0, -1.0]), SCORES) == 6.0


def test_is_zero_where_the_order_is_right():
    value, gradient = jax.value_and_grad(rrhf)(jnp.array([-1.0, -2.0, -4.0]), SCORES)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_order_of_responses_does_not_matter():
    for order in itertools.permutations(range(3)):
        assert rrhf(LOGPROBS[jnp.array(order)], SCORES[jnp.array(order)]) == 0.5


def test_only_the_order_of_scores_matters():
    assert rrhf(LOGPROBS, 1e3 * SCORES - 7.0) == 0.5
    assert rrhf(LOGPROBS, jnp.array([2, 1, 0])) == 0.5


def test_ties_of_scores_are_not_compared():
    assert rrhf(LOGPROBS, jnp.array([1.0, 1.0, -0.5])) == 0.0
    assert rrhf(LOGPROBS, jnp.ones(3)) == 0.0


def test_ties_of_log_probabilities_cost_nothing_and_pull_nothing():
    value, gradient = jax.value_and_grad(rrhf)(jnp.full(3, -2.0), SCORES)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_an_invalid_response_is_not_compared():
    assert rrhf(LOGPROBS, SCORES, jnp.array([True, False, True])) == 0.0
    # Without it, 3 pairs of 4 are wrong: 0.5 and, of the last against the first two, 2 and 1.5.
    worst = jnp.concatenate([LOGPROBS, jnp.array([-1.0])]), jnp.append(SCORES, -2.0)
    assert rrhf(*worst) == 0.5 + 2.0 + 1.5 + 3.0
    assert rrhf(*worst, jnp.array([True, True, True, False])) == 0.5
