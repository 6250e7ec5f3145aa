"""SimPO is the logistic loss of average log-probabilities with a margin in units of reward."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import simpo

AVERAGES = jnp.array([-3.0, -2.5])  # fixture A


def test_value_of_fixture_a():
    # gamma / beta = 0.5, so gamma = 1 and the margin 2 * (-0.5) - 1 = -2: log(1 + e^2).
    np.testing.assert_allclose(simpo(AVERAGES, beta=2.0, gamma=1.0), 2.1269280110, rtol=1e-6)


def test_gradient_of_fixture_a():
    # -beta sigmoid(2) = -2 * 0.8807970780 for the chosen.
    gradient = jax.grad(lambda a: simpo(a, beta=2.0, gamma=1.0))(AVERAGES)
    np.testing.assert_allclose(gradient, [-1.7615941560, 1.7615941560], rtol=1e-6)


@pytest.mark.parametrize("beta", [2.0, 10.0])
def test_is_log_two_where_the_reward_wins_by_the_margin(beta):
    pair = jnp.array([-1.0, -1.5])
    np.testing.assert_allclose(simpo(pair, beta=beta, gamma=0.5 * beta), math.log(2.0), rtol=1e-6)


def test_margin_is_not_scaled_by_beta():
    tie = jnp.array([-1.0, -1.0])
    losses = [simpo(tie, beta=beta, gamma=0.75) for beta in (1.0, 10.0)]
    np.testing.assert_allclose(losses, math.log1p(math.exp(0.75)), rtol=1e-6)
