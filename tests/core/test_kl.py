"""Estimators of the divergence from the reference: their values, biases and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import kl_estimate

KINDS = ("k1", "k2", "k3", "abs")


@pytest.mark.parametrize(
    ("kind", "expected"),
    # Fixture F: d = 0.3; 0.3^2 / 2; e^-0.3 - 1 + 0.3; 0.3. And d = -0.3: e^0.3 - 1 - 0.3.
    [
        ("k1", [0.3, -0.3]),
        ("k2", [0.045, 0.045]),
        ("k3", [0.0408182207, 0.0498588076]),
        ("abs", [0.3, 0.3]),
    ],
)
def test_value_of_fixture_f(kind, expected):
    found = kl_estimate(jnp.array([-1.0, -1.3]), jnp.array([-1.3, -1.0]), kind=kind)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # -1 + 1.3 is 0.3 to 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_is_zero_where_policy_equals_reference(kind):
    logprobs = jnp.array([0.0, -0.5, -200.0])
    np.testing.assert_array_equal(kl_estimate(logprobs, logprobs, kind=kind), 0.0)


@pytest.mark.parametrize(
    ("kind", "values", "slopes"),
    [
        ("k1", [1000.0, -1000.0], [1.0, 1.0]),
        ("k2", [5e5, 5e5], [1000.0, -1000.0]),
        # e^-1000 - 1 + 1000; and e^20 - 1 - 1000, whose exponential no longer moves.
        ("k3", [999.0, 485165195.41 - 1001.0], [1.0, 1.0]),
        ("abs", [1000.0, 1000.0], [1.0, -1.0]),
    ],
)
def test_far_from_the_reference(kind, values, slopes):
    d, zero = jnp.array([1000.0, -1000.0]), jnp.zeros(2)
    np.testing.assert_allclose(kl_estimate(d, zero, kind=kind), values, rtol=1e-6)
    gradient = jax.grad(lambda x: kl_estimate(x, zero, kind=kind).sum())(d)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6)


def test_k3_is_clamped_in_its_exponential_only_and_from_twenty_nats_on():
    d = jnp.array([-19.0, -21.0, 100.0])
    found = kl_estimate(d, jnp.zeros(3), kind="k3")
    # e^19 - 1 - 19, e^20 - 1 - 21, e^-100 - 1 + 100: more than the 10 that others stop at.
    expected = [178482300.96 - 20.0, 485165195.41 - 22.0, 99.0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_k3_is_right_next_to_the_reference():
    # d^2 / 2 - d^3 / 6, where exp(-d) - 1 + d in float32 would be off by 6e-8.
    d = jnp.array([1e-3, -1e-3])
    found = kl_estimate(d, jnp.zeros(2), kind="k3")
    np.testing.assert_allclose(found, [4.998333e-7, 5.001667e-7], rtol=1e-3)


# A policy and a reference over three tokens.
LOGITS, REF = jnp.array([0.3, -0.5, 1.0]), jax.nn.log_softmax(jnp.array([-0.2, 0.4, 0.1]))


def divergence(p_logprobs, q_logprobs):
    return jnp.sum(jnp.exp(p_logprobs) * (p_logprobs - q_logprobs))


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_is_unbiased(kind):
    policy = jax.nn.log_softmax(LOGITS)
    mean = jnp.sum(jnp.exp(policy) * kl_estimate(policy, REF, kind=kind))
    np.testing.assert_allclose(mean, divergence(policy, REF), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("k1", lambda logits: 0.0 * logits.sum()),
        ("k2", lambda logits: divergence(jax.nn.log_softmax(logits), REF)),
        ("k3", lambda logits: divergence(REF, jax.nn.log_softmax(logits))),
    ],
)
def test_gradient_over_samples_of_the_policy(kind, expected):
    weight = jax.nn.softmax(LOGITS)  # of each token among samples: not what is differentiated

    def loss(logits):
        return jnp.sum(weight * kl_estimate(jax.nn.log_softmax(logits), REF, kind=kind))

    np.testing.assert_allclose(jax.grad(loss)(LOGITS), jax.grad(expected)(LOGITS), atol=1e-6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(Exception, match="kind"):
        kl_estimate(jnp.zeros(1), jnp.zeros(1), kind="k4")
