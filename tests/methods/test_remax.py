"""ReMax: the sampled answer against the greedy one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.methods import ReMax
from tests.sampled import batch_of, close, outputs_of, slope

# Fixture I: greedy reward 0.5, sampled 1.5, log-ratios of the sample 0.2, -0.1, -0.5.
OLD = [[[-9.0, -9.0, 0.0], [-1.0, -0.5, -2.0]]]
REF = [[[-5.0, -5.0, 0.0], [-1.2, -0.4, -1.5]]]
DRAWN = batch_of([[0.5, 1.5]], [[2, 3]], old_logprobs=OLD, ref_logprobs=REF)
SAMPLED = outputs_of([[[-1.0, -0.5, -2.0]]])
KEY = jax.random.key(0)


def test_selection_keeps_the_sample_with_its_reward_less_the_greedy_one():
    found = ReMax().select(KEY, DRAWN)
    close(found.scores, [[1.0]])
    close(found.old_logprobs, [[[-1.0, -0.5, -2.0]]])
    np.testing.assert_array_equal(found.mask, [[[True, True, True]]])
    np.testing.assert_array_equal(found.valid, [[True]])


def test_a_prompt_whose_greedy_answer_has_no_reward_is_dropped():
    valid = [[False, True, True], [True, True, False]]
    scores = [[jnp.nan, 1.0, 2.0], [1.0, 4.0, jnp.nan]]
    found = ReMax(num_samples=3).select(KEY, batch_of(scores, [[1, 1, 1]] * 2, valid=valid))
    np.testing.assert_array_equal(found.valid, [[False, False], [True, False]])
    close(found.scores, [[0.0, 0.0], [3.0, 0.0]])


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (ReMax(beta=0.1, kl="one-step"), [0.98, 1.01, 1.05]),
        (ReMax(beta=0.1, kl="full-step"), [1.04, 1.06, 1.05]),
        (ReMax(beta=0.1, kl="sequence"), [1.04, 1.04, 1.04]),
        # The official code: 0.99^3 - 0.02, 0.99^2 + 0.01, 0.99 + 0.05.
        (ReMax(beta=0.1, kl="one-step", discount=0.99), [0.950299, 0.9901, 1.04]),
        (ReMax(beta=0.0), [1.0, 1.0, 1.0]),
    ],
)
def test_weights_of_fixture_i(method, weights):
    batch = method.select(KEY, DRAWN)
    close(slope(method, SAMPLED, batch).logprobs[0, 0], np.negative(weights))
    found, metrics = method.loss(SAMPLED, batch)
    close(found, [np.dot(weights, [1.0, 0.5, 2.0])])
    close(metrics["advantages"], [1.0])


def test_official_settings_are_those_of_the_authors_code():
    method = ReMax.official()
    # Reward 9 less greedy 0.5 is clipped to 5; KL 0.05: 5 0.99^3 - 0.01 and so on.
    batch = method.select(KEY, DRAWN._replace(scores=jnp.array([[0.5, 9.0]])))
    expected = [5 * 0.970299 - 0.01, 5 * 0.9801 + 0.005, 5 * 0.99 + 0.025]
    close(slope(method, SAMPLED, batch).logprobs[0, 0], np.negative(expected))
    needs = method.needs()
    assert needs.mean_over == "tokens"
    assert needs.sampling is not None
    assert needs.sampling.top_p == 0.9


def test_reduction_by_token_adds_all_tokens_of_a_prompt():
    # Advantages 1 and 3 on 2 tokens and 1 token of log-probability -1: sums 2 and 3.
    batch = batch_of([[0.0, 1.0, 3.0]], [[1, 2, 1]])
    outputs = outputs_of(np.full((1, 2, 2), -1.0))
    by_sequence, by_token = (
        ReMax(num_samples=3, beta=0.0, reduction=x) for x in ("sequence", "token")
    )
    close(by_sequence.loss(outputs, by_sequence.select(KEY, batch))[0], [2.5])
    close(by_token.loss(outputs, by_token.select(KEY, batch))[0], [5.0])
    assert by_sequence.needs().mean_over == "prompts"
    assert by_token.needs().mean_over == "tokens"


def test_asks_for_the_greedy_answer_first_and_one_sample_at_least():
    sampling = ReMax().needs().sampling
    assert sampling is not None
    assert sampling.greedy_first
    with pytest.raises(BadInput, match="greedy answer"):
        ReMax(num_samples=1)


def test_the_clip_has_two_sides():
    # Rewards 9 and -8 less the greedy 0.5 are 8.5 and -8.5.
    method = ReMax(beta=0.0, clip=5.0)
    for reward, clipped in ((9.0, 5.0), (-8.0, -5.0)):
        batch = method.select(KEY, DRAWN._replace(scores=jnp.array([[0.5, reward]])))
        close(slope(method, SAMPLED, batch).logprobs[0, 0], [-clipped] * 3)
