"""Rejection sampling accepts candidates by their reward, without replacement, in sweeps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import rejection_sample
from alignax.methods.rso import sweep_until

REWARDS = jnp.array([1.0, 0.4, 0.9, -0.2])  # fixture C


@functools.cache
def picker(num_samples):
    pick = functools.partial(rejection_sample, num_samples=num_samples)
    one = lambda key, rewards, beta: pick(key, rewards, beta=beta)  # noqa: E731
    return jax.jit(jax.vmap(one, in_axes=(0, None, None)))


def many(rewards, *, num_samples, beta, keys=4000):
    """What is picked with each of many keys."""
    keys = jax.random.split(jax.random.key(0), keys)
    return np.asarray(picker(num_samples)(keys, jnp.asarray(rewards), jnp.float32(beta)))


def test_sweeps_of_fixture_c():
    # Sweep 0: probabilities 1, 0.30, 0.82, 0.09 against .5 .6 .1 .95 accept 0 and 2. Sweep 1: the
    # highest left is 0.4, so candidate 1 is of probability 1 and accepted at .7.
    table = jnp.array([[0.5, 0.6, 0.1, 0.95], [0.99, 0.7, 0.99, 0.99]])
    found = sweep_until(REWARDS, lambda sweep: table[sweep], num_samples=3, beta=0.5)
    np.testing.assert_array_equal(found, [0, 2, 1])


@pytest.mark.parametrize(
    ("uniform", "accepted"),
    # exp((0.4 - 1) / 0.5) = 0.3011942 is the probability of candidate 1 in the first sweep. Where
    # it is not accepted there, it is the third, in the second.
    [(0.3011, [0, 1, 2]), (0.3013, [0, 2, 1])],
)
def test_probability_of_acceptance(uniform, accepted):
    table = jnp.array([[0.0, uniform, 0.0, 0.99], [0.0] * 4])
    found = sweep_until(REWARDS, lambda sweep: table[sweep], num_samples=3, beta=0.5)
    np.testing.assert_array_equal(found, accepted)


def test_highest_left_is_taken_anew_for_each_sweep():
    # Only the highest is ever accepted at uniforms near 1: they come in falling order.
    found = sweep_until(REWARDS, lambda _: jnp.full(4, 0.999), num_samples=4, beta=0.5)
    np.testing.assert_array_equal(found, [0, 2, 1, 3])


def test_a_sweep_stops_as_soon_as_there_are_enough():
    found = sweep_until(REWARDS, lambda _: jnp.zeros(4), num_samples=2, beta=0.5)
    np.testing.assert_array_equal(found, [0, 1])


@pytest.mark.parametrize("beta", [0.0, 1e-38, 1e-3, 0.5, 1e3, math.inf])
@pytest.mark.parametrize("num_samples", [0, 1, 3, 4, 9])
def test_indices_are_distinct_and_at_most_all(num_samples, beta):
    found = many(REWARDS, num_samples=num_samples, beta=beta, keys=50)
    assert found.dtype == np.int32
    assert found.shape == (50, min(num_samples, 4))
    assert ((found >= 0) & (found < 4)).all()
    assert all(len(set(row)) == len(row) for row in found.tolist())


@pytest.mark.parametrize("beta", [0.0, 1e-38, 1e-4])
def test_towards_zero_the_best_are_picked_the_very_best_first(beta):
    found = many(REWARDS, num_samples=3, beta=beta, keys=50)
    np.testing.assert_array_equal(found, np.tile([0, 2, 1], (50, 1)))


def test_towards_infinity_all_are_picked_alike():
    found = many(REWARDS, num_samples=1, beta=1e6)
    shares = np.bincount(found[:, 0], minlength=4) / len(found)
    # Four standard deviations of a share of 4,000 draws: 4 sqrt(0.25 * 0.75 / 4000) = 0.027.
    np.testing.assert_allclose(shares, 0.25, atol=0.027)


@pytest.mark.parametrize("rewards", [[1.0, 0.0], [0.0, 1.0]])
def test_law_of_one_of_two_whatever_their_order(rewards):
    # The worse one is picked where it comes first in the shuffle (1/2) and is accepted in the
    # first sweep, e^(-1 / beta); else the better one is.
    beta = 0.8
    found = many(rewards, num_samples=1, beta=beta)
    share = (found[:, 0] == rewards.index(0.0)).mean()
    expected = 0.5 * math.exp(-1.0 / beta)
    # Four standard deviations: 4 sqrt(0.143 * 0.857 / 4000) = 0.022.
    np.testing.assert_allclose(share, expected, atol=0.022)


def test_order_of_candidates_does_not_matter():
    shares = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        order = np.array(order)
        found = order[many(REWARDS[order], num_samples=2, beta=0.5)]
        shares.append([(found == candidate).any(axis=1).mean() for candidate in range(4)])
    # Five standard deviations of the difference of two shares: 5 sqrt(2 * 0.25 / 4000) = 0.056.
    np.testing.assert_allclose(shares[1:], shares[:1] * 2, atol=0.056)
    assert shares[0][0] > shares[0][2] > shares[0][1] > shares[0][3]


@pytest.mark.parametrize(
    ("rewards", "best"),
    [
        ([0.5, 0.5, 0.5], {0, 1, 2}),
        ([-math.inf, 1.0, -math.inf], {1}),
        ([-math.inf] * 3, {0, 1, 2}),
        ([math.inf, 0.0, math.inf], {0, 2}),
        ([-1e30, 1e30, -1e30], {1}),
        ([math.nan, 1.0, math.nan], {1}),
    ],
)
def test_ends_with_ties_infinities_and_nan(rewards, best):
    for beta in (0.0, 0.5):
        found = many(rewards, num_samples=3, beta=beta, keys=50)
        np.testing.assert_array_equal(np.sort(found), np.tile([0, 1, 2], (50, 1)))
        firsts = many(rewards, num_samples=1, beta=beta, keys=50)
        assert set(firsts[:, 0].tolist()) == best


def test_same_key_same_candidates_under_jit_and_with_a_traced_temperature():
    key = jax.random.key(3)
    expected = rejection_sample(key, REWARDS, num_samples=3, beta=0.5)
    compiled = jax.jit(rejection_sample, static_argnames="num_samples")
    np.testing.assert_array_equal(compiled(key, REWARDS, num_samples=3, beta=0.5), expected)
    found = jax.vmap(lambda beta: rejection_sample(key, REWARDS, num_samples=3, beta=beta))(
        jnp.array([0.0, 0.5])
    )
    np.testing.assert_array_equal(found, [[0, 2, 1], expected])


def test_keys_differ_in_shuffle_and_in_sweeps():
    found = many(REWARDS, num_samples=4, beta=1.0, keys=50)
    assert len(np.unique(found, axis=0)) > 10  # of 24 orders


def test_rewards_may_be_whole_or_half_precision():
    key = jax.random.key(1)
    expected = rejection_sample(key, jnp.array([2.0, 0.0, 1.0]), num_samples=2, beta=0.7)
    for dtype in (jnp.int32, jnp.bfloat16):
        found = rejection_sample(key, jnp.array([2, 0, 1], dtype), num_samples=2, beta=0.7)
        np.testing.assert_array_equal(found, expected)
