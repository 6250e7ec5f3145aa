"""ORPO compares the odds of two responses, and is finite up to certainty."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import orpo


def test_value_of_fixture_a():
    # log odds -3 - log(1 - e^-3) = -2.94893 and -2.5 - log(1 - e^-2.5) = -2.41435; of their
    # difference, -0.5345813028, log(1 + e^0.5345813028).
    np.testing.assert_allclose(orpo(jnp.array([-3.0, -2.5])), 0.9957425529, rtol=1e-6)


def test_even_odds_against_one_to_three():
    # p = 1/2 has odds 1, p = 1/4 odds 1/3: -log(3 / (3 + 1)).
    pair = jnp.log(jnp.array([0.5, 0.25]))
    np.testing.assert_allclose(orpo(pair), math.log(4.0 / 3.0), rtol=1e-6)


def test_gradient_is_that_of_the_odds():
    # d log odds / d a = 1 / (1 - p) = 2 and 4/3; the weight is sigmoid(-log 3) = 1/4.
    gradient = jax.grad(orpo)(jnp.log(jnp.array([0.5, 0.25])))
    np.testing.assert_allclose(gradient, [-0.5, 1.0 / 3.0], rtol=1e-6)


@pytest.mark.parametrize(
    "pair", [[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0], [-1e4, -1e-7], [-1e-9, -1e4]]
)
def test_stays_finite_at_certainty_and_impossibility(pair):
    value, gradient = jax.value_and_grad(orpo)(jnp.array(pair))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_certainty_is_taken_as_a_ten_millionth_less():
    # At a = -1e-7 the log odds are -1e-7 - log(1 - e^-1e-7) = log 1e7 to one part in 1e8.
    log_odds = math.log(1e7)
    even = math.log(0.5)
    np.testing.assert_allclose(orpo(jnp.array([even, 0.0])), log_odds, rtol=1e-6)  # + log(1 + 1e-7)
    gradient = jax.grad(orpo)(jnp.array([even, 0.0]))
    np.testing.assert_allclose(gradient, [-2.0, 0.0], rtol=1e-6)
