"""RAFT keeps the best samples by reward, or by reward less divergence, and imitates them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.records import Prompt
from alignax.core.types import Outputs
from alignax.methods import RAFT
from tests.methods.sampled import drawn, texts

KEY = jax.random.key(0)
# Two prompts with three samples each. Log-ratios with the reference: 0 8 2 and 1 1 -3 nats.
BATCH = drawn(
    [[[1, 2], [3], [4, 5, 6]], [[1], [2], [3]]],
    [[0.0, 1.0, 0.5], [4.0, 3.0, 2.0]],
    old=[[-4.0, -1.0, -6.0], [-2.0, -2.0, -5.0]],
    ref=[[-4.0, -9.0, -8.0], [-3.0, -3.0, -2.0]],
)


@pytest.mark.parametrize(
    ("beta", "kept"),
    [
        (0.0, [(0, [[3]]), (1, [[1]])]),
        # 0, 1 - 0.8, 0.5 - 0.2; 4 - 0.1, 3 - 0.1, 2 + 0.3
        (0.1, [(0, [[4, 5, 6]]), (1, [[1]])]),
        # 0, 1 - 8, 0.5 - 2; 4 - 1, 3 - 1, 2 + 3
        (1.0, [(0, [[1, 2]]), (1, [[3]])]),
    ],
)
def test_each_prompt_keeps_its_best_sample_by_reward_less_beta_log_ratios(beta, kept):
    found = jax.jit(RAFT(beta=beta).select)(KEY, BATCH)
    assert texts(found) == kept
    # The reward itself is kept, for metrics and for what comes after.
    places = {0.0: (1, 0), 0.1: (2, 0), 1.0: (0, 2)}[beta]
    np.testing.assert_array_equal(found.scores[:, 0], BATCH.scores[jnp.arange(2), places])


def test_global_selection_keeps_the_best_third_of_all_three_samples():
    # 4 and 3 are the best two of six: both of the second prompt.
    assert texts(RAFT(selection="global").select(KEY, BATCH)) == [(1, [[1]]), (1, [[2]])]
    # By reward less log-ratios (0 -7 -1.5, 3 2 5): 5 and 3.
    found = RAFT(selection="global", beta=1.0).select(KEY, BATCH)
    assert texts(found) == [(1, [[3]]), (1, [[1]])]


def test_of_equals_the_first_is_kept():
    batch = BATCH._replace(scores=jnp.ones((2, 3)))
    assert texts(RAFT().select(KEY, batch)) == [(0, [[1, 2]]), (1, [[1]])]
    assert texts(RAFT(selection="global").select(KEY, batch)) == [(0, [[1, 2]]), (0, [[3]])]


def test_the_reference_is_needed_only_where_it_counts_in_the_ranking():
    assert not RAFT().needs().reference
    assert RAFT(beta=0.1).needs().reference


def test_a_stage_is_as_many_updates_as_it_says():
    sampling = RAFT(num_samples=32, temperature=0.85, refresh=10, epochs=4).needs().sampling
    assert sampling is not None
    assert (sampling.num_samples, sampling.temperature) == (32, 0.85)
    assert (sampling.refresh, sampling.epochs) == (10, 4)
    assert (sampling.source, sampling.replay) == ("policy", "none")


def test_a_record_gives_its_prompt_and_no_response():
    group = RAFT().group(Prompt(prompt="p", columns={"answer": 4}, origin="f:1"))
    assert (group.prompt, group.responses, group.scores, group.origin) == ("p", (), (), "f:1")


def test_the_loss_is_the_likelihood_of_what_was_kept_summed_and_divided_by_the_steps_tokens():
    method = RAFT()
    kept = method.select(KEY, BATCH._replace(valid=jnp.array([[True] * 3, [False] * 3])))
    losses, metrics = method.loss(Outputs(jnp.array([[[-1.5, 9, 9]], [[-7.0, 9, 9]]])), kept)
    np.testing.assert_array_equal(losses, [1.5, 0.0])  # the second prompt kept nothing
    np.testing.assert_array_equal(metrics["rewards/best"], [1.0, 0.0])
    np.testing.assert_array_equal(metrics["logps/mean_token"], [-1.5, 0.0])
    assert method.needs().mean_over == "tokens"
