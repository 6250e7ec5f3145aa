"""Rewards by the token: where they stand, and what leaving the reference costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.shaping import (
    discount_to_end,
    is_zero,
    log_ratio_to_pay,
    reward_at_end,
    sampled_divergence,
    sampled_log_ratios,
)
from tests.sampled import batch_of, close

# A gap in the middle, one on the whole, none at all.
MASK = jnp.array([[True, False, True, False], [True] * 4, [False] * 4])
RATIOS = jnp.array([[0.2, 9.0, -0.1, jnp.nan], [0.2, -0.1, -0.5, 1.0], [9.0, 9.0, 9.0, 9.0]])


def test_the_reward_stands_at_the_last_token_on_the_mask():
    found = reward_at_end(jnp.array([2.0, -3.0, 5.0]), MASK)
    np.testing.assert_array_equal(found, [[0, 0, 2, 0], [0, 0, 0, -3], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("one-step", [[0.2, 0, -0.1, 0], [0.2, -0.1, -0.5, 1.0], [0] * 4]),
        # 0.2 - 0.1; and 0.2 - 0.1 - 0.5 + 1, -0.1 - 0.5 + 1, -0.5 + 1, 1.
        ("full-step", [[0.1, 0, -0.1, 0], [0.6, 0.4, 0.5, 1.0], [0] * 4]),
        ("sequence", [[0.1, 0, 0.1, 0], [0.6, 0.6, 0.6, 0.6], [0] * 4]),
    ],
)
def test_a_token_pays_for_its_span(span, expected):
    close(log_ratio_to_pay(RATIOS, MASK, span=span), expected)


@pytest.mark.parametrize("discount", [0.5, jnp.array(0.5)])
def test_the_last_token_is_discounted_once(discount):
    found = discount_to_end(MASK, discount=discount)
    close(found, [[0.25, 0, 0.5, 0], [0.0625, 0.125, 0.25, 0.5], [0] * 4])


@pytest.mark.parametrize(("discount", "expected"), [(1.0, [1, 0, 1, 0]), (0.0, [0, 0, 0, 0])])
def test_discounts_of_1_and_0_are_exact(discount, expected):
    np.testing.assert_array_equal(discount_to_end(MASK, discount=discount)[0], expected)


def test_log_ratios_are_of_the_policy_that_sampled():
    old, ref = [[[-1.0, -0.5, -2.0], [-1.0, 9.0, 9.0]]], [[[-1.2, -0.4, -1.5], [-3.0, 0.0, 0.0]]]
    batch = batch_of([[0.0, 0.0]], [[3, 1]], old_logprobs=old, ref_logprobs=ref)
    close(sampled_log_ratios(batch), [[[0.2, -0.1, -0.5], [2.0, 0.0, 0.0]]])
    close(sampled_divergence(batch), [[-0.4, 2.0]])
    close(sampled_divergence(batch._replace(valid=jnp.array([[True, False]]))), [[-0.4, 0.0]])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: reward_at_end(x[:, 0], MASK),
        lambda x: log_ratio_to_pay(x, MASK, span="full-step"),
        lambda x: discount_to_end(MASK, discount=x[0, 0]),
    ],
)
def test_all_are_constants(function):
    found = jax.grad(lambda x: function(x).sum())(jnp.full((3, 4), 0.5))
    np.testing.assert_array_equal(found, 0.0)


def test_a_weight_is_zero_only_where_it_is_known_to_be():
    assert is_zero(0.0)
    assert is_zero(0)
    assert not is_zero(1e-9)
    assert not is_zero(jnp.array(0.0))
