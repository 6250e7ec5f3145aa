"""Advantages by hand, by their papers' identities, and by enumerating a small policy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import (
    generalised_advantage,
    greedy_advantage,
    group_advantage,
    kl_estimate,
    leave_one_out_advantage,
    overlong_penalty,
    policy_gradient,
)

REWARDS = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])  # fixture D


def by_reward(good, bad):
    return np.where(REWARDS == 1.0, good, bad)


# --- Greedy baseline


def test_greedy_baseline_is_subtracted():
    found = greedy_advantage(jnp.array([1.5, 0.5]), jnp.array([0.5, 0.5]))
    np.testing.assert_array_equal(found, [1.0, 0.0])


def test_remax_with_a_penalty_in_each_token_is_fixture_i():
    # A = 1.5 - 0.5, less 0.1 (0.2, -0.1, -0.5), or less what of these is still to come.
    logprobs, ref = jnp.array([-1.0, -0.5, -2.0]), jnp.array([-1.2, -0.4, -1.5])
    advantage = greedy_advantage(jnp.array(1.5), jnp.array(0.5))
    penalty = 0.1 * kl_estimate(logprobs, ref, kind="k1")
    np.testing.assert_allclose(advantage - penalty, [0.98, 1.01, 1.05], rtol=1e-6)
    to_come = jnp.cumsum(penalty[::-1])[::-1]
    np.testing.assert_allclose(advantage - to_come, [1.04, 1.06, 1.05], rtol=1e-6)


# --- Group baselines


def test_values_of_fixture_d():
    # Mean 0.375, unbiased std 0.5175491695: 0.625 / 0.5176491695 and -0.375 / 0.5176491695.
    found = group_advantage(REWARDS, eps=1e-4)
    np.testing.assert_allclose(found, by_reward(1.2073814, -0.7244289), rtol=1e-6)
    found = group_advantage(REWARDS, scale=False)
    np.testing.assert_allclose(found, by_reward(0.625, -0.375), rtol=1e-6)
    # 1 - 2/7 and 0 - 3/7.
    found = leave_one_out_advantage(REWARDS)
    np.testing.assert_allclose(found, by_reward(5.0 / 7.0, -3.0 / 7.0), rtol=1e-6)


def test_leave_one_out_is_the_unscaled_group_advantage_times_k_over_k_minus_one():
    rewards = jax.random.normal(jax.random.key(0), (3, 8))
    expected = group_advantage(rewards, scale=False) * 8.0 / 7.0
    np.testing.assert_allclose(leave_one_out_advantage(rewards), expected, rtol=1e-5)


def test_eps_stands_outside_the_root():
    # Rewards 1, 0 have mean 0.5 and unbiased std sqrt(0.5): 0.5 / (0.7071068 + 0.25).
    found = group_advantage(jnp.array([1.0, 0.0]), eps=0.25)
    np.testing.assert_allclose(found, [0.5224078, -0.5224078], rtol=1e-6)


def test_scaled_advantages_have_deviation_one_and_do_not_see_units():
    rewards = jax.random.normal(jax.random.key(1), (6,))
    found = group_advantage(rewards, eps=0.0)
    np.testing.assert_allclose(np.std(found, ddof=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(group_advantage(50.0 * rewards - 3.0, eps=0.0), found, rtol=1e-4)


@pytest.mark.parametrize("advantage", [leave_one_out_advantage, group_advantage])
@pytest.mark.parametrize("junk", [1e30, -3e38, jnp.nan])
def test_only_valid_responses_count(advantage, junk):
    rewards, valid = jnp.array([1.0, junk, 0.25, junk]), jnp.array([True, False, True, False])
    expected = advantage(jnp.array([1.0, 0.25]))
    np.testing.assert_array_equal(advantage(rewards, valid)[valid], expected)
    np.testing.assert_array_equal(advantage(rewards, valid)[~valid], 0.0)


@pytest.mark.parametrize("advantage", [leave_one_out_advantage, group_advantage])
@pytest.mark.parametrize("valid", [[False, True, False], [False] * 3])
def test_a_group_of_one_or_none_has_no_advantage(advantage, valid):
    rewards = jnp.array([1.0, 0.7, 1e30])
    np.testing.assert_array_equal(advantage(rewards, jnp.array(valid)), 0.0)
    np.testing.assert_array_equal(advantage(jnp.array([0.7])), 0.0)


@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4])
@pytest.mark.parametrize("reward", [0.1, -1e6, 1e30])
def test_a_tied_group_has_exactly_no_advantage(reward, eps):
    # Three times 0.1 is not 0.3 in float32: a rounding error over a tiny eps would be a signal.
    for k in (3, 7):
        rewards = jnp.full(k, reward)
        np.testing.assert_array_equal(group_advantage(rewards, eps=eps), 0.0)
        np.testing.assert_array_equal(leave_one_out_advantage(rewards), 0.0)


def test_rewards_may_be_whole_numbers():
    whole = REWARDS.astype(jnp.int32)
    for advantage in (leave_one_out_advantage, group_advantage):
        np.testing.assert_array_equal(advantage(whole), advantage(REWARDS))
    assert greedy_advantage(whole, whole).dtype == jnp.float32


@pytest.mark.parametrize("k", [2, 3])
def test_leave_one_out_gradient_is_unbiased(k):
    # A policy of three answers, all k-tuples of which are enumerated: the mean of the loss's
    # gradients is exactly the gradient of the expected reward. The group's mean as a baseline
    # would shrink it by (k - 1) / k.
    logits, reward = jnp.array([0.2, -0.7, 0.9]), jnp.array([1.0, -0.5, 2.0])
    tuples = jnp.array(list(itertools.product(range(3), repeat=k)))
    probability = jnp.prod(jax.nn.softmax(logits)[tuples], axis=-1)

    def loss(logits, advantage):
        logprobs = jax.nn.log_softmax(logits)[tuples][..., None]
        per_token = policy_gradient(logprobs, advantage, jnp.ones(logprobs.shape, bool))
        return jnp.sum(probability[:, None] * per_token[..., 0]) / k

    exact = jax.grad(lambda logits: -jnp.sum(jax.nn.softmax(logits) * reward))(logits)
    found = jax.grad(loss)(logits, leave_one_out_advantage(reward[tuples]))
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    shrunk = jax.grad(loss)(logits, group_advantage(reward[tuples], scale=False))
    np.testing.assert_allclose(shrunk, exact * (k - 1) / k, rtol=1e-5)


# --- Generalised advantages


def plain(rewards, values, mask, discount, decay):
    """The sum of the paper, over the positions that count: A_t = sum_l (gamma lambda)^l delta."""
    at = np.flatnonzero(mask)
    r, v = np.asarray(rewards, float)[at], np.append(np.asarray(values, float)[at], 0.0)
    delta = r + discount * v[1:] - v[:-1]
    found = np.zeros(len(mask))
    for i, position in enumerate(at):
        powers = (discount * decay) ** np.arange(len(at) - i)
        found[position] = np.sum(powers * delta[i:])
    return found, np.where(mask, found + np.asarray(values, float), 0.0)


def test_value_of_fixture_h():
    # delta 0.4, 0.22, -0.11 from the last: 0.4, 0.22 + 0.95 * 0.4, -0.11 + 0.95 * 0.6.
    rewards, values = jnp.array([-0.01, 0.02, 1.0]), jnp.array([0.5, 0.4, 0.6])
    found = generalised_advantage(rewards, values, jnp.ones(3, bool), discount=1.0, decay=0.95)
    np.testing.assert_allclose(found[0], [0.46, 0.60, 0.40], rtol=1e-6)
    np.testing.assert_allclose(found[1], [0.96, 1.00, 1.00], rtol=1e-6)


def test_positions_off_the_mask_are_skipped_whatever_they_hold():
    mask = jnp.array([False, True, False, False, True, True, False])
    spread = lambda x, junk: jnp.where(mask, jnp.array([0, *x[:1], 0, 0, *x[1:], 0.0]), junk)  # noqa: E731
    rewards, values = [-0.01, 0.02, 1.0], [0.5, 0.4, 0.6]
    for junk in (0.0, 1e30, jnp.nan):
        advantages, returns = generalised_advantage(
            spread(rewards, junk), spread(values, junk), mask, discount=1.0, decay=0.95
        )
        np.testing.assert_allclose(advantages, [0, 0.46, 0, 0, 0.60, 0.40, 0], rtol=1e-6)
        np.testing.assert_allclose(returns, [0, 0.96, 0, 0, 1.00, 1.00, 0], rtol=1e-6)


@pytest.mark.parametrize(("discount", "decay"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.5, 1.0)])
def test_is_the_sum_of_the_paper(discount, decay):
    keys = jax.random.split(jax.random.key(0), 3)
    rewards, values = (jax.random.normal(key, (4, 9)) for key in keys[:2])
    mask = jax.random.bernoulli(keys[2], 0.7, (4, 9))
    found = generalised_advantage(rewards, values, mask, discount=discount, decay=decay)
    for i in range(4):
        expected = plain(rewards[i], values[i], mask[i], discount, decay)
        np.testing.assert_allclose(found[0][i], expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1][i], expected[1], rtol=1e-4, atol=1e-5)


def test_returns_are_rewards_to_come_where_nothing_is_discounted():
    rewards, mask = jnp.array([1.0, 2.0, 4.0, 8.0]), jnp.array([True, True, False, True])
    values = jnp.array([0.3, -5.0, 7.0, 2.0])
    returns = generalised_advantage(rewards, values, mask, discount=1.0, decay=1.0)[1]
    np.testing.assert_allclose(returns, [11.0, 10.0, 0.0, 8.0], rtol=1e-6)


def test_an_empty_mask_gives_zeros():
    found = generalised_advantage(
        jnp.full(3, jnp.nan), jnp.full(3, jnp.nan), jnp.zeros(3, bool), discount=1.0, decay=0.9
    )
    np.testing.assert_array_equal(found, 0.0)


# --- Overlong responses


def test_values_of_fixture_k():
    lengths = jnp.array([0, 16384, 17408, 20480, 20481, 22000])
    found = overlong_penalty(lengths, max_length=20480, buffer=4096)
    np.testing.assert_array_equal(found, [0.0, 0.0, -0.25, -1.0, -1.0, -1.0])


def test_without_a_buffer_there_is_only_the_cliff():
    found = overlong_penalty(jnp.array([99, 100, 101]), max_length=100, buffer=0)
    np.testing.assert_array_equal(found, [0.0, 0.0, -1.0])
