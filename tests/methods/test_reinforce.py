"""REINFORCE: the reward, less what leaving the reference costs, less a baseline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.method import over_step
from alignax.methods import REINFORCE
from tests.sampled import batch_of, close, outputs_of, slope

# Fixture I: log-ratios 0.2, -0.1, -0.5; from each token on -0.4, -0.6, -0.5.
OLD, REF = [[[-1.0, -0.5, -2.0]]], [[[-1.2, -0.4, -1.5]]]
BATCH = batch_of([[1.5]], [[3]], old_logprobs=OLD, ref_logprobs=REF)


@pytest.mark.parametrize(
    ("kl", "weights", "loss"),
    [
        ("full-step", [1.54, 1.56, 1.55], 5.42),  # 1.5 + 0.04 and so on; 1.54 + 0.78 + 3.1
        ("sequence", [1.54, 1.54, 1.54], 5.39),  # 1.54 3.5
    ],
)
def test_value_and_gradient_of_fixture_i(kl, weights, loss):
    method, outputs = REINFORCE(beta=0.1, kl=kl), outputs_of(OLD)
    found, metrics = method.loss(outputs, BATCH)
    close(found, [loss])
    close(slope(method, outputs, BATCH).logprobs[0, 0], np.negative(weights))
    close(metrics["reward"], [1.5])
    close(metrics["kl"], [-0.4])


def test_a_second_look_at_old_samples_still_pays_the_log_ratio_they_had():
    moved = outputs_of(np.array(OLD) + 0.3)
    found = slope(REINFORCE(beta=0.1), moved, BATCH).logprobs
    close(found, slope(REINFORCE(beta=0.1), outputs_of(OLD), BATCH).logprobs)


def test_several_samples_are_averaged_those_not_valid_left_out():
    batch = batch_of(
        [[2.0, 1.0, jnp.nan]],
        [[2, 1, 2]],
        old_logprobs=np.full((1, 3, 2), -1.0),
        valid=[[True, True, False]],
    )
    outputs = outputs_of(np.full((1, 3, 2), -1.0))
    # (2 (1 + 1) + 1) / 2, and halves of the rewards.
    close(REINFORCE(beta=0.0).loss(outputs, batch)[0], [2.5])
    found = slope(REINFORCE(beta=0.0), outputs, batch).logprobs
    close(found, [[[-1.0, -1.0], [-0.5, 0.0], [0.0, 0.0]]])


def test_the_baseline_is_the_mean_reward_of_the_whole_step():
    # Of two prompts with rewards 1.5 and 0.5 it is 1, and the advantages are 0.5 and -0.5.
    method = REINFORCE(beta=0.0, baseline="batch")
    batch = batch_of([[1.5], [0.5]], [[1], [1]])
    outputs = outputs_of([[[-1.0]], [[-3.0]]])
    losses, metrics = method.loss(outputs, batch)
    close(losses, [0.5, -1.5])
    close(metrics["baseline"], [1.0, 1.0])
    # Cut into two micro-batches, each with the step's means, it is the same.
    means = over_step(method, outputs, batch)
    for i in range(2):
        part = jax.tree.map(lambda x: x[i : i + 1], (outputs, batch))  # noqa: B023
        close(method.loss(part[0], part[1]._replace(means=means))[0], losses[i : i + 1])


def test_without_a_baseline_the_step_needs_no_means():
    assert REINFORCE().means(outputs_of(OLD), BATCH) == {}


def test_without_beta_there_is_no_reference():
    assert REINFORCE().needs().reference
    assert not REINFORCE(beta=0.0).needs().reference
    assert REINFORCE(beta=jnp.array(0.0)).needs().reference  # as in a sweep
    found, metrics = REINFORCE(beta=0.0).loss(outputs_of(OLD), BATCH._replace(ref_logprobs=None))
    close(found, [1.5 * 3.5])
    assert "kl" not in metrics


def test_strengths_can_be_swept():
    losses = jax.vmap(lambda beta: REINFORCE(beta=beta).loss(outputs_of(OLD), BATCH)[0])
    # 1.5 3.5 + beta (0.4 + 0.3 + 1).
    close(losses(jnp.array([0.0, 0.1, 1.0]))[:, 0], [5.25, 5.42, 6.95])
