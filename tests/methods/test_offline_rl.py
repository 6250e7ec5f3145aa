"""Filtering, reward-weighted regression and the Decision Transformer on scored responses."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.conditioning import read_request
from alignax.core.records import LeftOut, Message, Scored
from alignax.core.types import Batch, Outputs
from alignax.methods import DecisionTransformer, Filtering, RewardWeighted

RECORDS = [
    Scored(prompt="p", response=f"r{i}", score=score, origin=f"f:{i}")
    for i, score in enumerate((4.0, 1.0, 2.0, 5.0))
]


def loss(method, scores):
    """For responses of 2 and 4 tokens of -1 nat each: -2 and -4 in all."""
    mask = jnp.arange(4)[None, None] < jnp.array([[[2]], [[4]]])
    batch = Batch(
        prompts=jnp.ones((2, 3), jnp.int32),
        prompt_lengths=jnp.full(2, 3, jnp.int32),
        responses=jnp.ones(mask.shape, jnp.int32),
        mask=mask,
        scores=jnp.array(scores)[:, None],
        valid=jnp.ones((2, 1), bool),
    )
    return method.loss(Outputs(logprobs=jnp.where(mask, -1.0, 0.0)), batch)


# --- Filtering


def test_filtering_keeps_the_best_share_and_leaves_the_rest_out():
    method = Filtering(keep=0.5).fit(RECORDS)
    assert method.lowest == 4.0
    kept = []
    for record in RECORDS:
        try:
            kept.append(method.group(record).responses[0])
        except LeftOut as out:
            assert out.reason == "scored below 4"  # noqa: PT017
    assert kept == ["r0", "r3"]


def test_filtering_keeps_a_given_threshold_and_at_least_one_response():
    assert Filtering(lowest=3.0).fit(RECORDS).lowest == 3.0
    assert Filtering(keep=0.01).fit(RECORDS).lowest == 5.0
    assert Filtering(keep=1.0).fit(RECORDS).lowest == 1.0


def test_filtering_is_maximum_likelihood_of_what_is_kept():
    losses, metrics = loss(Filtering(), [5.0, 4.0])
    np.testing.assert_array_equal(losses, [2.0, 4.0])
    np.testing.assert_array_equal(metrics["logps/mean_token"], [-1.0, -1.0])
    assert Filtering().needs().mean_over == "tokens"


# --- Reward-weighted regression


def test_scores_are_brought_to_mean_0_and_deviation_1_of_the_training_data():
    method = RewardWeighted().fit(RECORDS)
    # Deviations 1, -2, -1, 2 from 3; their squares sum to 10, over n - 1 = 3.
    assert method.mean == 3.0
    assert method.deviation == pytest.approx(math.sqrt(10 / 3))
    assert method.group(RECORDS[3]).scores == (pytest.approx(2 / math.sqrt(10 / 3)),)


def test_each_response_is_imitated_by_its_weight_over_the_mean_weight():
    # e^1 and e^-1; over their mean, cosh 1.
    losses, metrics = loss(RewardWeighted(beta=1.0), [1.0, -1.0])
    weights = np.exp([1.0, -1.0]) / math.cosh(1.0)
    np.testing.assert_allclose(metrics["weight"], weights, rtol=1e-6)
    np.testing.assert_allclose(losses, weights * [2.0, 4.0], rtol=1e-6)


def test_no_weight_is_above_the_clip_before_the_mean():
    _, metrics = loss(RewardWeighted(beta=0.1, max_weight=3.0), [9.0, 0.0])
    np.testing.assert_allclose(metrics["weight"], [3.0 / 2.0, 1.0 / 2.0], rtol=1e-6)


def test_weights_stay_finite_and_of_mean_1_where_every_one_of_them_is_tiny():
    losses, metrics = loss(RewardWeighted(beta=1e-3), [-1.0, -1.0])  # e^-1000 each
    np.testing.assert_allclose(metrics["weight"], [1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(losses, [2.0, 4.0], rtol=1e-6)
    # e^-100 and e^-90: 1 to e^10 = 22026.47 of their sum, and there are two.
    _, metrics = loss(RewardWeighted(beta=0.02), [-2.0, -1.8])
    np.testing.assert_allclose(metrics["weight"], [9.07957e-5, 1.9999092], rtol=1e-4)


def test_a_step_without_any_response_has_finite_weights():
    found = RewardWeighted().pool({"log_weight": jnp.zeros(2)}, jnp.zeros(2, bool))
    assert found["log_weight"] == 0.0


# --- Decision Transformer


def test_every_prompt_says_how_its_response_was_scored():
    method = DecisionTransformer().fit(RECORDS)
    asked = [method.group(record).prompt for record in RECORDS]
    # Deviations from the mean, 1 / 1.8257 = 0.5477 each.
    assert asked[0] == "p <rm_score>: 0.55 "
    assert [read_request(x) for x in asked] == [0.55, -1.10, -0.55, 1.10]


def test_the_trained_policy_is_asked_for_the_target_in_the_same_words():
    method = DecisionTransformer(target=5.0).fit(RECORDS)
    assert method.ask("p") == "p <rm_score>: 5.00 "
    turns = (Message("system", "s"), Message("user", "u"))
    assert method.ask(turns) == (Message("system", "s"), Message("user", "u <rm_score>: 5.00"))


def test_normalisation_is_kept_with_the_method_and_not_taken_twice():
    method = DecisionTransformer(mean=1.0, deviation=2.0)
    assert method.fit(RECORDS) is method
    assert method.group(RECORDS[3]).scores == (2.0,)


@pytest.mark.parametrize("cls", [DecisionTransformer, RewardWeighted])
def test_what_is_given_is_kept_where_the_rest_is_taken_from_the_data(cls):
    method = cls(deviation=2.0).fit(RECORDS)
    assert (method.mean, method.deviation) == (3.0, 2.0)
    method = cls(mean=-1.0).fit(RECORDS)
    assert (method.mean, method.deviation) == (-1.0, pytest.approx(math.sqrt(10 / 3)))


@pytest.mark.parametrize("score", [7.0, 0.1])  # the mean of three times 0.1 is not 0.1
def test_scores_that_are_all_equal_are_all_asked_for_as_0(score):
    same = [Scored(prompt="p", response="r", score=score) for _ in range(3)]
    assert DecisionTransformer().fit(same).group(same[0]).prompt == "p <rm_score>: 0.00 "
