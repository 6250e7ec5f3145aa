"""CPO is DPO with a reference that finds all responses equally probable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import cpo, dpo

SUMS = jnp.array([-12.0, -15.0])  # fixture A


def test_value_of_fixture_a():
    # The margin is 0.1 * 3 = 0.3: log(1 + e^-0.3).
    np.testing.assert_allclose(cpo(SUMS, beta=0.1), 0.5543552445, rtol=1e-6)


def test_gradient_of_fixture_a():
    # -beta sigmoid(-0.3) = -0.1 * 0.4255574832.
    gradient = jax.grad(lambda s: cpo(s, beta=0.1))(SUMS)
    np.testing.assert_allclose(gradient, [-0.0425557483, 0.0425557483], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("pair", [[-12.0, -15.0], [-9.0, -2.0], [-4.0, -4.0]])
def test_is_dpo_with_an_indifferent_reference(pair, smoothing):
    pair = jnp.array(pair)
    expected = dpo(pair, jnp.full(2, -6.0), beta=0.5, label_smoothing=smoothing)
    found = cpo(pair, beta=0.5, label_smoothing=smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("pair", "expected"),
    # A quarter or three quarters of a margin of 1,000, whichever label it speaks against.
    [([1000.0, 0.0], 250.0), ([0.0, 1000.0], 750.0)],
)
def test_smoothed_extremes_are_right(pair, expected):
    found = cpo(jnp.array(pair), beta=1.0, label_smoothing=0.25)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
