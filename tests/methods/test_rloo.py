"""RLOO: each sample against the mean of the others."""

import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.methods import RLOO
from tests.sampled import NEW, OLD, SAMPLES, batch_of, close, outputs_of, slope


def test_gradient_of_fixture_d():
    # Rewards 1 0 0 1 1 0 0 0: advantages 5/7 and -3/7; the mean over 8 responses of 1 token each.
    rewards = [[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]]
    method, outputs = RLOO(beta=0.0), outputs_of(np.full((1, 8, 1), -1.0))
    found = slope(method, outputs, batch_of(rewards, [[1] * 8])).logprobs[0, :, 0]
    close(-8 * found, np.where(np.array(rewards[0]) > 0, 0.7142857143, -0.4285714286))


def test_two_samples_give_half_the_difference_of_rewards_times_that_of_log_probabilities():
    # R = 1 and 0; S = -3.0943107 (three tokens at -1 and log 1.3 + log 0.7) and -0.7376358.
    # (R_1 - R_2)(S_2 - S_1) / 2
    found, _ = RLOO(beta=0.0).loss(outputs_of(NEW), SAMPLES)
    s1, s2 = -3 + np.log(1.3 * 0.7), -1 + np.log(1.3)
    close(found, [0.5 * (s2 - s1)])
    close(
        slope(RLOO(beta=0.0), outputs_of(NEW), SAMPLES).logprobs,
        [[[-0.5, -0.5, -0.5], [0.5, 0, 0]]],
    )


def test_the_log_ratio_of_the_whole_response_is_in_its_reward():
    # Sampled log-ratios to the reference: 3 times 0.2, and 0.4. R = 1 - 0.06 and 0 - 0.04, so that
    # the advantages are 0.98 and -0.98.
    ref = OLD - np.array([[[0.2], [0.4]]])
    batch = SAMPLES._replace(ref_logprobs=jnp.asarray(ref, jnp.float32))
    method = RLOO(beta=0.1)
    found = slope(method, outputs_of(NEW), batch).logprobs
    close(found, [[[-0.49, -0.49, -0.49], [0.49, 0, 0]]])
    _, metrics = method.loss(outputs_of(NEW), batch)
    close(metrics["kl"], [0.5])
    close(metrics["reward"], [0.5])


def test_the_clip_is_of_the_ratio_of_whole_responses():
    # Ratios 1.3 0.7 = 0.91 with A = 1, and 1.3 with A = -1: neither stopped by the clip of 0.2,
    # (-0.91 + 1.3) / 2. With A the other way round 0.91 and 1.3: the second stops at 1.2.
    method = RLOO(beta=0.0, clip=0.2)
    found, metrics = method.loss(outputs_of(NEW), SAMPLES)
    close(found, [0.195])
    close(metrics["clip_ratio/region_mean"], [0.0])
    gradient = slope(method, outputs_of(NEW), SAMPLES).logprobs
    close(gradient, [[[-0.455, -0.455, -0.455], [0.65, 0, 0]]])
    swapped = SAMPLES._replace(scores=jnp.array([[0.0, 1.0]]))
    found, metrics = method.loss(outputs_of(NEW), swapped)
    close(found, [(0.91 - 1.2) / 2])
    close(metrics["clip_ratio/high_mean"], [0.5])
    gradient = slope(method, outputs_of(NEW), swapped).logprobs
    close(gradient, [[[0.455, 0.455, 0.455], [0, 0, 0]]])


def test_while_samples_are_the_policys_own_the_clip_changes_no_gradient():
    outputs = outputs_of(OLD)
    gradients = [slope(RLOO(beta=0.0, clip=clip), outputs, SAMPLES) for clip in (None, 0.2)]
    close(gradients[0].logprobs, gradients[1].logprobs)


def test_a_sample_that_is_not_valid_is_no_ones_baseline():
    # Rewards 1 and 0 as if there were no third.
    batch = batch_of([[1.0, 0.0, 50.0]], [[1, 1, 1]], valid=[[True, True, False]])
    found = slope(RLOO(beta=0.0), outputs_of(np.full((1, 3, 1), -1.0)), batch).logprobs
    close(found[0, :, 0], [-0.5, 0.5, 0.0])


def test_one_sample_is_refused():
    with pytest.raises(BadInput, match="at least 2 samples"):
        RLOO(num_samples=1)
