"""Plackett-Luce is the probability of drawing the responses in the order of their scores."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from alignax.losses import bradley_terry, plackett_luce


def test_probability_of_a_ranking_of_three():
    # Weights 2, 1, 3, to be drawn in this order: 2/6 * 1/4 * 3/3 = 1/12.
    rewards = jnp.log(jnp.array([2.0, 1.0, 3.0]))
    loss = plackett_luce(rewards, jnp.array([3.0, 2.0, 1.0]))
    np.testing.assert_allclose(loss, math.log(12.0), rtol=1e-6)


def test_probabilities_of_all_rankings_sum_to_one():
    rewards = jnp.array([0.3, -1.2, 0.8, 2.0])
    rankings = jnp.array(list(itertools.permutations([4.0, 3.0, 2.0, 1.0])))
    losses = plackett_luce(jnp.broadcast_to(rewards, rankings.shape), rankings)
    np.testing.assert_allclose(jnp.exp(-losses).sum(), 1.0, rtol=1e-6)


def test_gradient_is_probability_less_choice():
    # Weights 2, 1, 3. First pick: (1/3, 1/6, 1/2) less (1, 0, 0); second: (1/4, 3/4) less (1, 0).
    rewards = jnp.log(jnp.array([2.0, 1.0, 3.0]))
    gradient = jax.grad(plackett_luce)(rewards, jnp.array([3.0, 2.0, 1.0]))
    np.testing.assert_allclose(gradient, [-2.0 / 3.0, -7.0 / 12.0, 5.0 / 4.0], rtol=1e-5)


def test_of_equal_rewards_it_is_log_factorial():
    found = plackett_luce(jnp.full(5, 3.0), jnp.arange(5))
    np.testing.assert_allclose(found, math.log(120.0), rtol=1e-6)


def test_two_responses_are_bradley_terry():
    rewards = jnp.array([1.2, 0.7])
    expected = bradley_terry(rewards)
    np.testing.assert_allclose(plackett_luce(rewards, jnp.array([2.0, 1.0])), expected, rtol=1e-6)
    found = plackett_luce(rewards[::-1], jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_ties_are_not_compared():
    # Two that tie over a third: each against it alone. Weights 2, 4 and 1: 2/3 * 4/5.
    rewards = jnp.log(jnp.array([2.0, 4.0, 1.0]))
    found = plackett_luce(rewards, jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(found, -math.log(2.0 / 3.0 * 4.0 / 5.0), rtol=1e-6)
    assert plackett_luce(rewards, jnp.ones(3)) == 0.0


def test_an_invalid_response_is_in_no_denominator():
    rewards = jnp.log(jnp.array([2.0, 1.0, 3.0]))
    found = plackett_luce(rewards, jnp.array([3.0, 2.0, 1.0]), jnp.array([True, True, False]))
    np.testing.assert_allclose(found, math.log(1.5), rtol=1e-6)  # 2 / (2 + 1)
