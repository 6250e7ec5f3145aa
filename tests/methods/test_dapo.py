"""DAPO: a wider clip above, a loss by the token, and no prompt that teaches nothing."""

import jax
import numpy as np

from alignax.methods import DAPO
from tests.sampled import NEW, SAMPLES, SCALED, batch_of, close, outputs_of, slope

A, KEY = SCALED, jax.random.key(0)


def test_value_and_gradient_by_hand():
    # Ratios 1.3 (clipped to 1.28), 1, 0.7 with A, and 1.3 with -A: minus the sum over tokens.
    method = DAPO()
    found, metrics = method.loss(outputs_of(NEW), SAMPLES)
    close(found, [-(2.98 - 1.3) * A])
    expected = [[[0.0, -A, -0.7 * A], [1.3 * A, 0.0, 0.0]]]
    close(slope(method, outputs_of(NEW), SAMPLES).logprobs, expected)
    close(metrics["clip_ratio/high_mean"], [0.25])


def test_the_step_divides_by_tokens():
    needs = DAPO().needs()
    assert needs.mean_over == "tokens"
    assert not needs.reference
    assert needs.sampling is not None
    assert needs.sampling.fill


def test_prompts_whose_rewards_are_all_equal_are_dropped():
    scores = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    valid = [[True] * 3, [True] * 3, [True, True, False], [False, True, True]]
    found = DAPO().select(KEY, batch_of(scores, [[1] * 3] * 4, valid=valid))
    np.testing.assert_array_equal(
        found.valid, [[False] * 3, [True] * 3, [False] * 3, [False, True, True]]
    )


def test_the_penalty_of_length_comes_after_prompts_are_dropped():
    # max_length 8, buffer 4: 0 up to 4 tokens, -0.25 for each more, -1 beyond 8.
    scores, lengths = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]], [[4, 6, 9], [4, 6, 9]]
    found = DAPO(max_length=8, buffer=4).select(KEY, batch_of(scores, lengths))
    close(found.scores, [[1.0, 0.5, 0.0], [1.0, -0.5, 0.0]])
    np.testing.assert_array_equal(found.valid, [[False] * 3, [True] * 3])
    close(DAPO().select(KEY, batch_of(scores, lengths)).scores, scores)


def test_the_reward_that_is_logged_is_what_was_given_and_the_penalty_stands_beside_it():
    # Of 4, 6 and 9 tokens: 0, -0.5 and -1 are added to 1, 0 and 1.
    batch, logprobs = batch_of([[1.0, 0.0, 1.0]], [[4, 6, 9]]), outputs_of(np.zeros((1, 3, 9)))
    penalised = DAPO(max_length=8, buffer=4)
    kept = penalised.select(KEY, batch)
    found, metrics = penalised.loss(logprobs, kept)
    close(metrics["reward"], [2 / 3])
    close(metrics["reward_std"], [np.sqrt(1 / 3)])
    close(metrics["rewards/overlong_penalty"], [-0.5])
    expected, plain = DAPO().loss(logprobs, kept)  # what is learnt from has it in
    close(found, expected)
    close(plain["reward"], [1 / 6])
    assert "rewards/overlong_penalty" not in plain


def test_advantages_unscaled_and_with_another_eps():
    # Rewards 1 and 0 are 0.5 from their mean, and their deviation is the root of 0.5.
    found, _ = DAPO(scale=False).loss(outputs_of(NEW), SAMPLES)
    close(found, [-(2.98 - 1.3) * 0.5])
    found, _ = DAPO(eps=1.0).loss(outputs_of(NEW), SAMPLES)
    close(found, [-(2.98 - 1.3) * 0.5 / (np.sqrt(0.5) + 1.0)])
