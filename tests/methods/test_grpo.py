"""GRPO: each sample against its group, in standard deviations; clipped; the KL in the loss."""

import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.methods import GRPO
from tests.sampled import NEW, OLD, SAMPLES, SCALED, batch_of, close, outputs_of, slope

A = SCALED


def test_advantages_of_fixture_d():
    # Rewards 1 0 0 1 1 0 0 0 on 8 responses of one token, sampled by the policy itself.
    rewards = [[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]]
    outputs, batch = outputs_of(np.zeros((1, 8, 1))), batch_of(rewards, [[1] * 8])
    better = np.array(rewards[0]) > 0
    found = slope(GRPO(beta=0.0), outputs, batch).logprobs[0, :, 0]
    close(-8 * found, np.where(better, 1.2073814, -0.7244289))
    found = slope(GRPO(beta=0.0, scale=False), outputs, batch).logprobs[0, :, 0]
    close(-8 * found, np.where(better, 0.625, -0.375))


def test_value_and_gradient_by_hand():
    # The first has advantage A and ratios 1.3, 1, 0.7, of which 1.3 counts as 1.2; the second -A
    # and 1.3: means over tokens of 2.9 A / 3 and -1.3 A, of which minus the mean.
    found, metrics = GRPO(beta=0.0).loss(outputs_of(NEW), SAMPLES)
    close(found, [-(2.9 / 3 - 1.3) * A / 2])
    # What is clipped has no slope; the rest has its ratio's, by length and number of responses.
    expected = [[[0.0, -A / 6, -0.7 * A / 6], [1.3 * A / 2, 0.0, 0.0]]]
    close(slope(GRPO(beta=0.0), outputs_of(NEW), SAMPLES).logprobs, expected)
    close(metrics["clip_ratio/high_mean"], [0.25])  # one token of four
    close(metrics["clip_ratio/low_mean"], [0.0])
    close(metrics["reward_std"], [np.sqrt(0.5)])


def test_the_value_is_0_where_the_policy_sampled_and_the_gradient_is_not():
    outputs = outputs_of(OLD)
    found, _ = GRPO(beta=0.0).loss(outputs, SAMPLES)
    close(found, [0.0])  # A - A, to rounding
    expected = [[[-A / 6] * 3, [A / 2, 0.0, 0.0]]]
    close(slope(GRPO(beta=0.0), outputs, SAMPLES).logprobs, expected)


def test_the_kl_is_k3_in_the_loss_with_its_gradient():
    # Fixture F: log-ratio 0.3 at every token: k3 0.0408182207, whose slope is 1 - exp(-0.3).
    batch = SAMPLES._replace(ref_logprobs=jnp.asarray(OLD - 0.3, jnp.float32))
    without, _ = GRPO(beta=0.0).loss(outputs_of(OLD), batch)
    found, metrics = GRPO(beta=0.5).loss(outputs_of(OLD), batch)
    close(found - without, [0.5 * 0.0408182207])
    slopes = [slope(GRPO(beta=beta), outputs_of(OLD), batch).logprobs for beta in (0.0, 0.5)]
    k3 = 0.5 * 0.2591817793
    close(slopes[1] - slopes[0], [[[k3 / 6] * 3, [k3 / 2, 0.0, 0.0]]])
    close(metrics["kl"], [0.6])  # (0.9 + 0.3) / 2


def test_the_kl_of_a_token_is_logged_beside_that_of_a_response():
    # Log-ratios 0.3 on three tokens and 0.1 on one; k3 of 0.1 is exp(-0.1) - 1 + 0.1.
    ref = OLD - np.array([[[0.3] * 3, [0.1, 0.0, 0.0]]])
    batch = SAMPLES._replace(ref_logprobs=jnp.asarray(ref, jnp.float32))
    _, metrics = GRPO(beta=0.5).loss(outputs_of(OLD), batch)
    close(metrics["kl"], [0.5])  # (0.9 + 0.1) / 2
    close(metrics["kl/per_token"], [(3 * 0.0408182207 + 0.0048374180) / 4])


def test_equal_rewards_leave_the_kl_alone():
    batch = SAMPLES._replace(
        scores=jnp.array([[0.3, 0.3]]), ref_logprobs=jnp.asarray(OLD - 0.3, jnp.float32)
    )
    found, metrics = GRPO(beta=0.04).loss(outputs_of(OLD), batch)
    close(found, [0.04 * 0.0408182207])
    assert metrics["frac_reward_zero_std"] == 1.0


def test_needs_a_reference_only_with_beta_and_two_samples_always():
    assert GRPO().needs().reference
    assert not GRPO(beta=0.0).needs().reference
    with pytest.raises(BadInput, match="at least 2 samples"):
        GRPO(num_samples=1)
