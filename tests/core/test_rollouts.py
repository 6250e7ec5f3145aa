"""What methods share that learn from samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Prompt
from alignax.core.rollouts import (
    clip_metrics,
    mean_over_tokens,
    prompt_alone,
    require_samples,
    reward_metrics,
    rewards_differ,
    sum_over_tokens,
    without_first,
)
from alignax.core.types import Batch
from tests.sampled import SAMPLES, batch_of, close


def test_a_prompt_alone_has_no_responses():
    group = prompt_alone(Prompt(prompt="2 + 2 =", columns={"answer": "4"}, origin="f:3"))
    assert (group.prompt, group.responses, group.scores, group.origin) == ("2 + 2 =", (), (), "f:3")


def test_sums_and_means_are_over_tokens_of_valid_responses():
    # Fixture E: losses (1, 2, 3) and (5): their sum is 11 and their mean 2.75; without the second
    # response 6 and 2.
    losses = jnp.array([[[1.0, 2.0, 3.0], [5.0, jnp.nan, jnp.nan]]])
    assert (sum_over_tokens(losses, SAMPLES), mean_over_tokens(losses, SAMPLES)) == (11.0, 2.75)
    part = SAMPLES._replace(valid=jnp.array([[True, False]]))
    assert (sum_over_tokens(losses, part), mean_over_tokens(losses, part)) == (6.0, 2.0)
    none = SAMPLES._replace(valid=jnp.array([[False, False]]))
    assert (sum_over_tokens(losses, none), mean_over_tokens(losses, none)) == (0.0, 0.0)


def test_rewards_are_described_by_mean_unbiased_deviation_and_whether_they_differ():
    # Fixture D; then all equal; then 1 and 3 with a third that is not valid.
    fixture = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    third = [1.0, 3.0, jnp.nan, 0.0, 0.0, 0.0, 0.0, 0.0]
    valid = [[True] * 8, [True] * 8, [True] * 2 + [False] * 6]
    found = reward_metrics(batch_of([fixture, [0.3] * 8, third], [[1] * 8] * 3, valid=valid))
    close(found["reward"], [0.375, 0.3, 2.0])
    close(found["reward_std"], [0.5175491695, 0.0, 1.4142135624])
    np.testing.assert_array_equal(found["frac_reward_zero_std"], [0.0, 1.0, 0.0])


def test_one_response_has_no_deviation():
    assert set(reward_metrics(batch_of([[1.0]], [[2]]))) == {"reward"}


def test_only_valid_rewards_can_differ():
    scores = [[1.0, 1.0, 2.0], [1.0, 2.0, 2.0], [1.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    valid = [[True, True, False], [True, True, False], [True] * 3, [False] * 3]
    batch = batch_of(scores, [[1] * 3] * 4, valid=valid)
    np.testing.assert_array_equal(rewards_differ(batch), [False, True, True, False])


def test_the_clip_stops_what_the_advantage_would_drive_out():
    # Ratios 0.7 and 1.3 with clips of 0.2: below stops only where A < 0, above only where A > 0.
    ratio = jnp.log(jnp.array([0.7, 0.7, 1.3, 1.3, 1.1, 0.1]))
    advantages = jnp.array([-1.0, 1.0, -1.0, 1.0, 1.0, -1.0])
    mask = jnp.array([True] * 5 + [False])
    found = clip_metrics(ratio, advantages, mask, clip_low=0.2, clip_high=0.2)
    close(found["clip_ratio/low_mean"], 0.2)
    close(found["clip_ratio/high_mean"], 0.2)
    close(found["clip_ratio/region_mean"], 0.4)


def test_without_the_first_every_array_by_response_loses_it():
    full = jnp.arange(12.0).reshape(2, 3, 2)
    batch = batch_of(full[..., 0], [[2, 1, 2]] * 2, old_values=full, ref_logprobs=full)
    batch = batch._replace(attributes=full, means={"reward": jnp.array(1.0)})
    found = without_first(batch)
    by_response = set(Batch._fields) - {"prompts", "prompt_lengths", "means"}
    for name in by_response:
        np.testing.assert_array_equal(getattr(found, name), getattr(batch, name)[:, 1:])
    jax.tree.map(np.testing.assert_array_equal, found[:2], batch[:2])
    assert found.means is batch.means


def test_too_few_samples_are_refused_with_the_reason():
    require_samples(2, 2, "why")
    with pytest.raises(BadInput) as error:
        require_samples(1, 2, "The others are the baseline of each.")
    assert str(error.value) == (
        "num_samples: expected at least 2 samples a prompt; got 1.\n"
        "    The others are the baseline of each."
    )
