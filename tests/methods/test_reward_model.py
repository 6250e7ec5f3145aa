"""The pairwise loss of reward models, its margin and its centring."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.types import Outputs
from alignax.losses import bradley_terry
from alignax.methods import RewardModel
from tests.sampled import batch_of

REWARDS = jnp.array([1.2, 0.7])


@pytest.mark.parametrize(
    ("margin", "centre", "expected"),
    [
        (0, 0, 0.4740769842),  # log(1 + e^-0.5)
        (1 / 3, 0.0, 0.6132820581),  # log(1 + e^(-0.5 + 1/3))
        (0.0, 0.01, 0.5101769842),  # + 0.01 * 1.9^2 = 0.0361
    ],
)
def test_value_by_hand(margin, centre, expected):
    found = bradley_terry(REWARDS, margin, centre=centre)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_neither_margin_nor_centring_by_default():
    np.testing.assert_allclose(bradley_terry(REWARDS), 0.4740769842, rtol=1e-6)
    np.testing.assert_allclose(bradley_terry(jnp.zeros(2)), math.log(2.0), rtol=1e-6)


def test_gradient_with_centring():
    # -sigmoid(-0.5) + 2 * 0.01 * 1.9 and sigmoid(-0.5) + 0.038.
    gradient = jax.grad(lambda r: bradley_terry(r, centre=0.01))(REWARDS)
    np.testing.assert_allclose(gradient, [-0.3395406688, 0.4155406688], rtol=1e-6)


def test_margins_may_differ_from_pair_to_pair():
    found = bradley_terry(jnp.stack([REWARDS] * 2), jnp.array([0.0, 1.0 / 3.0]))
    np.testing.assert_allclose(found, [0.4740769842, 0.6132820581], rtol=1e-6)
    whole = bradley_terry(jnp.stack([REWARDS] * 2), jnp.array([0, 1]))
    np.testing.assert_allclose(whole, [0.4740769842, math.log1p(math.exp(0.5))], rtol=1e-6)


@pytest.mark.parametrize(
    ("gap", "value", "slope"),
    [(1000.0, 0.0, 0.0), (-1000.0, 1000.0, -1.0), (0.0, math.log(2), -0.5)],
)
def test_is_right_at_extreme_gaps_and_ties(gap, value, slope):
    found, gradient = jax.value_and_grad(bradley_terry)(jnp.array([gap, 0.0]))
    np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(gradient, [slope, -slope], rtol=1e-6, atol=1e-30)


# --- The method


def test_margin_and_centring_of_a_pair_and_what_is_said_of_it():
    batch = batch_of([[1.0 / 3.0, 0.0]], [[1, 1]])
    outputs = Outputs(logprobs=jnp.zeros((1, 2, 1)), rewards=REWARDS[None])
    # With the margin 0.6132820581, without 0.4740769842; + 0.5 * 1.9^2 = 1.805.
    found, metrics = RewardModel(margins=True, centre=0.5).loss(outputs, batch)
    np.testing.assert_allclose(found, [2.4182820581], rtol=1e-6)
    assert {name: float(x[0]) for name, x in metrics.items()} == pytest.approx(
        {
            "rewards/chosen": 1.2,
            "rewards/rejected": 0.7,
            "rewards/margins": 0.5,
            "rewards/accuracies": 1.0,
        }
    )
    found, _ = RewardModel(centre=0.5).loss(outputs, batch)
    np.testing.assert_allclose(found, [2.2790769842], rtol=1e-6)
    turned = outputs._replace(rewards=REWARDS[None, ::-1])
    _, metrics = RewardModel(margins=True).loss(turned, batch)
    assert float(metrics["rewards/margins"][0]) == pytest.approx(-0.5)
    assert float(metrics["rewards/accuracies"][0]) == 0.0
