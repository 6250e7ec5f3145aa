"""Reward-weighted regression weighs responses by the exponential of their scores."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import nll, reward_weights

SCORES = jnp.array([1.0, 0.0, -1.0])  # fixture L


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(1.0, [2.7182818, 1.0, 0.3678794]), (0.5, [7.3890561, 1.0, 0.1353353])],
)
def test_weights_of_fixture_l(beta, expected):
    found = reward_weights(SCORES, beta=beta, max_weight=20.0, normalise=False)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("beta", "shares"),
    [(1.0, [0.6652410, 0.2447285, 0.0900306]), (0.5, [0.8668133, 0.1173104, 0.0158762])],
)
def test_normalised_weights_of_fixture_l(beta, shares):
    # Their mean is 1, so they are three times their shares.
    found = reward_weights(SCORES, beta=beta, max_weight=20.0)
    np.testing.assert_allclose(found, 3.0 * np.array(shares), rtol=1e-5)


def test_the_clip_comes_before_the_mean():
    # e is clipped to 2: 2, 1, 0.3678794, of mean 1.1226265.
    found = reward_weights(SCORES, beta=1.0, max_weight=2.0)
    np.testing.assert_allclose(found, np.array([2.0, 1.0, 0.3678794]) / 1.1226265, rtol=1e-6)
    bare = reward_weights(SCORES, beta=1.0, max_weight=2.0, normalise=False)
    np.testing.assert_allclose(bare, [2.0, 1.0, 0.3678794], rtol=1e-6)


def test_limits_are_imitation_and_the_best_response():
    calm = reward_weights(SCORES, beta=1e6, max_weight=20.0)
    np.testing.assert_allclose(calm, 1.0, rtol=1e-5)
    eager = reward_weights(SCORES, beta=1e-3, max_weight=math.inf)
    np.testing.assert_allclose(eager, [3.0, 0.0, 0.0], atol=1e-30)


@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
@pytest.mark.parametrize("max_weight", [20.0, math.inf])
def test_mean_stays_one_however_far_scores_are_from_zero(shift, max_weight):
    found = reward_weights(SCORES + shift, beta=1.0, max_weight=max_weight)
    np.testing.assert_allclose(found.mean(), 1.0, rtol=1e-6)
    if shift > 0 and math.isfinite(max_weight):  # all are clipped
        np.testing.assert_allclose(found, 1.0, rtol=1e-6)
    else:
        np.testing.assert_allclose(found, 3.0 * jax.nn.softmax(SCORES), rtol=1e-4)


def test_clipped_weights_are_finite_without_a_mean_too():
    found = reward_weights(jnp.array([1000.0, -1000.0]), beta=1.0, max_weight=20.0, normalise=False)
    np.testing.assert_array_equal(found, [20.0, 0.0])


def test_the_policy_it_leads_to_is_data_times_exponential_reward():
    # Over all of a data set the weighted likelihood is stationary, in every logit of a table, at
    # data(y) exp(r(y) / beta) / Z.
    data, rewards, beta = np.array([4, 3, 1]), np.array([0.0, 0.5, 2.0]), 0.5
    drawn = np.repeat(np.arange(3), data)
    weights = reward_weights(jnp.asarray(rewards[drawn]), beta=beta, max_weight=1e3)

    def loss(logits):
        logprobs = jax.nn.log_softmax(logits)[drawn]
        return jnp.sum(weights * nll(logprobs[:, None], jnp.ones((8, 1), bool)))

    optimum = data * np.exp(rewards / beta)
    logits = jnp.log(jnp.asarray(optimum, jnp.float32))
    np.testing.assert_allclose(jax.grad(loss)(logits), 0.0, atol=1e-5)
    assert np.abs(jax.grad(loss)(jnp.zeros(3))).max() > 1.0
