"""SLiC asks for a margin between log-probabilities, hinge-norm for one between log-ratios."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import hinge, slic

# Fixture A: log-ratios 1 and -0.5, so h = 1.5.
POLICY, REFERENCE = jnp.array([-12.0, -15.0]), jnp.array([-13.0, -14.5])


@pytest.mark.parametrize(("delta", "expected"), [(1.0, 0.0), (4.0, 1.0)])  # 4 - (-12) + (-15) = 1
def test_value_of_slic_in_fixture_a(delta, expected):
    np.testing.assert_allclose(slic(POLICY, delta=delta), expected)


def test_value_of_hinge_in_fixture_a():
    np.testing.assert_allclose(hinge(POLICY, REFERENCE, beta=0.1), 0.85, rtol=1e-6)  # 1 - 0.15


def test_hinge_is_one_where_policy_equals_reference():
    np.testing.assert_array_equal(hinge(POLICY, POLICY, beta=0.3), 1.0)


def test_they_are_the_same_at_strength_one_with_a_reference_that_prefers_neither():
    pairs = jnp.array([[-12.0, -15.0], [-3.0, -2.75], [-2.0, -2.0]])
    found = hinge(pairs, jnp.full_like(pairs, -7.0), beta=1.0)
    np.testing.assert_array_equal(found, slic(pairs, delta=1.0))
    np.testing.assert_array_equal(found, [0.0, 1.25, 1.0])


@pytest.mark.parametrize(("chosen", "slope"), [(-2.5, -1.0), (-1.0, 0.0), (-0.5, 0.0)])
def test_slic_pulls_with_constant_force_up_to_the_margin_and_not_beyond(chosen, slope):
    # The margin of 1 is reached at -1, where there is nothing left to gain.
    gradient = jax.grad(lambda s: slic(s, delta=1.0))(jnp.array([chosen, -2.0]))
    np.testing.assert_array_equal(gradient, [slope, -slope])


def test_hinge_pulls_with_force_beta():
    gradient = jax.grad(lambda s: hinge(s, REFERENCE, beta=0.25))(POLICY)
    np.testing.assert_array_equal(gradient, [-0.25, 0.25])
    done = jax.grad(lambda s: hinge(s, REFERENCE, beta=1.0))(POLICY)
    np.testing.assert_array_equal(done, 0.0)
