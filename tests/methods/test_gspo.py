"""GSPO: one ratio a response."""

import numpy as np

from alignax.methods import GRPO, GSPO
from tests.sampled import OLD, SAMPLES, SCALED, batch_of, close, outputs_of, slope

A = SCALED
# Fixture J, for both responses: s = exp((0.1 + 0 - 0.106) / 3).
S = 0.9980019987
BATCH = batch_of([[1.0, 0.0]], [[3, 3]], old_logprobs=[[[-1.1, -0.5, -1.894]] * 2])
OUTPUTS = outputs_of([[[-1.0, -0.5, -2.0]] * 2])


def test_value_and_gradient_of_fixture_j():
    # The better one counts with s, the worse one is clipped at 1 - 3e-4 and has no slope.
    found, metrics = GSPO().loss(OUTPUTS, BATCH)
    np.testing.assert_allclose(found, [-(S - 0.9997) * A / 2], rtol=2e-4)  # of a difference
    close(metrics["clip_ratio/low_mean"], [0.5])
    close(metrics["clip_ratio/high_mean"], [0.0])
    # The slope of s at each of 3 tokens is s / 3.
    close(slope(GSPO(), OUTPUTS, BATCH).logprobs, [[[-S * A / 6] * 3, [0.0] * 3]])


def test_is_grpo_while_samples_are_the_policys_own():
    outputs = outputs_of(OLD)
    found, expected = (slope(x, outputs, SAMPLES).logprobs for x in (GSPO(), GRPO(beta=0.0)))
    close(found, expected)
    close(GSPO().loss(outputs, SAMPLES)[0], [0.0])  # A - A, to rounding


def test_is_taken_in_several_steps_for_each_drawing():
    sampling = GSPO().needs().sampling
    assert sampling is not None
    assert sampling.refresh == 4


def test_advantages_unscaled_and_with_another_eps():
    # Rewards 1 and 0 are 0.5 from their mean, and their deviation is the root of 0.5.
    expected = [[[-S / 12] * 3, [0.0] * 3]]
    close(slope(GSPO(scale=False), OUTPUTS, BATCH).logprobs, expected)
    found = slope(GSPO(eps=1.0), OUTPUTS, BATCH).logprobs
    close(found, np.array(expected) / (np.sqrt(0.5) + 1.0))
