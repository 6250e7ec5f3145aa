"""Rejection-sampling fine-tuning imitates the best of K, and says what to do with old rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.selection import best_of_rounds
from alignax.core.types import Outputs
from alignax.methods import RejectionSampling
from tests.methods.sampled import drawn, texts

KEY = jax.random.key(0)
BATCH = drawn([[[1, 2], [3], [4]], [[5], [6, 7], [8]]], [[0.0, 1.0, 1.0], [-4.0, -3.0, -5.0]])


def test_the_best_of_k_is_kept_for_each_prompt_and_the_first_of_equals():
    found = jax.jit(RejectionSampling().select)(KEY, BATCH)
    assert texts(found) == [(0, [[3]]), (1, [[6, 7]])]
    np.testing.assert_array_equal(found.scores, [[1.0], [-3.0]])


def test_a_response_without_a_reward_is_not_kept():
    batch = BATCH._replace(
        valid=jnp.array([[True, False, True], [False] * 3]), scores=BATCH.scores.at[0, 1].set(9.0)
    )
    assert texts(RejectionSampling().select(KEY, batch)) == [(0, [[4]]), (1, [])]


@pytest.mark.parametrize("replay", ["none", "all", "best"])
def test_it_says_what_of_earlier_rounds_is_learnt_from(replay):
    sampling = RejectionSampling(replay=replay).needs().sampling
    assert sampling is not None
    assert sampling.replay == replay


def test_the_best_of_all_rounds_is_not_forgotten_and_the_last_round_alone_would_forget_it():
    method = RejectionSampling()
    first = method.select(KEY, BATCH)
    worse = method.select(KEY, BATCH._replace(scores=jnp.array([[-2.0, 0.5, 0], [-1, -9, -9]])))
    scores = np.concatenate([first.scores[:, 0], worse.scores[:, 0]])
    # Rounds kept 1, -3 and then 0.5, -1: the first round's for prompt 0, the second's for prompt 1.
    assert best_of_rounds(scores, np.array([0, 1, 0, 1])).tolist() == [0, 3]
    sampling = method.needs().sampling
    assert sampling is not None
    assert sampling.replay == "best"


def test_the_loss_is_the_likelihood_of_what_was_kept_summed_and_divided_by_the_steps_tokens():
    method = RejectionSampling()
    logprobs = jnp.array([[[-1.5, 9.0]], [[-1.0, -2.0]]])
    losses, metrics = method.loss(Outputs(logprobs), method.select(KEY, BATCH))
    np.testing.assert_array_equal(losses, [1.5, 3.0])
    np.testing.assert_array_equal(metrics["rewards/best"], [1.0, -3.0])
    assert method.needs().mean_over == "tokens"
    assert not method.needs().reference
