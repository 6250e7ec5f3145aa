"""IPO leads the difference of log-ratios to 1 / (2 tau), and no further."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import ipo

# Fixture A: log-ratios 1 and -0.5, so h = 1.5; of 4 and 6 tokens, so averages 0.25 and -1/12.
SUMS = jnp.array([-12.0, -15.0]), jnp.array([-13.0, -14.5])
AVERAGES = tuple(x / jnp.array([4.0, 6.0]) for x in SUMS)


@pytest.mark.parametrize(
    ("given", "tau", "expected"),
    [
        (SUMS, 0.1, 12.25),  # (1.5 - 5)^2
        (SUMS, 0.5, 0.25),  # (1.5 - 1)^2
        (AVERAGES, 0.1, 21.7777777778),  # (1/3 - 5)^2
        (AVERAGES, 0.5, 0.4444444444),  # (1/3 - 1)^2
    ],
)
def test_value_of_fixture_a(given, tau, expected):
    np.testing.assert_allclose(ipo(*given, tau=tau), expected, rtol=1e-6)


def test_gradient_of_fixture_a():
    # 2 (1.5 - 5) = -7 for the chosen, the opposite for the rejected.
    gradient = jax.grad(lambda s: ipo(s, SUMS[1], tau=0.1))(SUMS[0])
    np.testing.assert_allclose(gradient, [-7.0, 7.0], rtol=1e-6)


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
def test_is_the_squared_target_where_policy_equals_reference(tau):
    np.testing.assert_allclose(ipo(SUMS[0], SUMS[0], tau=tau), (0.5 / tau) ** 2, rtol=1e-6)


@pytest.mark.parametrize(("tau", "expected"), [(0.1, 0.9933071491), (1.0, 0.6224593312)])
def test_optimum_of_two_actions_is_sigmoid_of_the_target(tau, expected):
    # Reference uniform, the first always preferred: log(p / (1 - p)) = 1 / (2 tau), so that
    # p = sigmoid(0.5 / tau), where DPO goes to 1 for every strength.
    def loss(logit):
        logprobs = jax.nn.log_sigmoid(jnp.stack([logit, -logit]))
        return ipo(logprobs, jnp.full(2, -jnp.log(2.0)), tau=tau)

    optimum = jnp.log(expected / (1.0 - expected))
    np.testing.assert_allclose(loss(optimum), 0.0, atol=1e-9)
    assert jax.grad(loss)(optimum - 0.1) < 0 < jax.grad(loss)(optimum + 0.1)
