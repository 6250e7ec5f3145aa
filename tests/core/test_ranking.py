"""Comparisons of responses: strictly lower, both valid, and constants."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.ranking import gaps, only_valid, ranking_nll


def test_gaps_are_from_strictly_lower_scores_only():
    expected = [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_array_equal(gaps(jnp.array([2.0, 1.0, 1.0]), None), expected)


def test_gaps_leave_out_what_is_invalid_whatever_it_holds():
    valid = jnp.array([True, False, True])
    for junk in (0.0, 1e30, -3e38, jnp.nan):
        found = gaps(jnp.array([2.0, junk, 1.5]), valid)
        np.testing.assert_array_equal(found, [[0.0, 0.0, 0.5], [0.0] * 3, [0.0] * 3])


def test_no_gradient_flows_through_gaps():
    slope = jax.grad(lambda scores: gaps(scores, None).sum())(jnp.array([2.0, 1.0]))
    np.testing.assert_array_equal(slope, 0.0)


def test_invalid_numbers_become_zero_and_get_no_gradient():
    valid, x = jnp.array([True, False]), jnp.array([2.0, 1e30])
    np.testing.assert_array_equal(only_valid(x, valid), [2.0, 0.0])
    np.testing.assert_array_equal(jax.grad(lambda x: only_valid(x, valid).sum())(x), [1.0, 0.0])
    np.testing.assert_array_equal(only_valid(x, None), x)


def test_each_response_is_picked_from_itself_and_what_it_is_compared_with():
    logits = jnp.array([[7.0, 1.0, -2.0], [9.0, 9.0, 0.5], [9.0, 9.0, 9.0]])
    compared = jnp.array([[False, True, True], [False, False, True], [False] * 3])
    expected = math.log(1 + math.exp(1.0) + math.exp(-2.0)) + math.log(1 + math.exp(0.5))
    np.testing.assert_allclose(ranking_nll(logits, compared), expected, rtol=1e-6)


def test_a_response_with_nothing_below_it_adds_nothing():
    compared = jnp.zeros((2, 2), bool)
    value, slope = jax.value_and_grad(lambda x: ranking_nll(x, compared))(jnp.full((2, 2), 1e30))
    assert value == 0.0
    np.testing.assert_array_equal(slope, 0.0)
