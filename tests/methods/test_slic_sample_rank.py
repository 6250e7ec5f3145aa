"""SLiC on ranked samples: a margin between the pairs of a prompt, and likelihood of its best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.types import Outputs
from alignax.methods import SLiCSampleRank
from tests.methods.sampled import drawn, texts

KEY = jax.random.key(0)
FOUR = drawn([[[1], [2], [3], [4]]], [[2.0, 1.0, 0.0, 3.0]])
LOGPS = jnp.array([[[-2.0], [-1.0], [-4.0], [-3.5]]])


def loss(batch, logprobs=LOGPS, **settings):
    method = SLiCSampleRank(num_samples=batch.valid.shape[1], **settings)
    kept = jax.jit(method.select)(KEY, batch)
    return method.loss(Outputs(logprobs), kept)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 0 beats 1: 1 + 2 - 1 = 2. 3 beats 2: 1 + 3.5 - 4 = 0.5. 3 beats 0: 1 + 3.5 - 2 = 2.5.
        # Their mean is 5/3, and the best, the last, costs 3.5.
        ({"nll_weight": 0.0}, 5 / 3),
        ({"nll_weight": 0.1}, 5 / 3 + 0.35),
        # Margins -1, 0.5, -1.5 against 2: 3, 1.5, 3.5.
        ({"nll_weight": 0.0, "delta": 2.0}, 8 / 3),
        # Besides, 0 beats 2: 1 + 2 - 4 < 0. 1 beats 2: 1 + 1 - 4 < 0. 3 beats 1: 1 + 3.5 - 1 = 3.5.
        ({"nll_weight": 0.0, "pairing": "all"}, 8.5 / 6),
    ],
)
def test_mean_of_the_pairs_of_one_prompt_worked_by_hand(settings, expected):
    losses, metrics = loss(FOUR, **settings)
    np.testing.assert_allclose(losses, [expected], rtol=1e-6)
    np.testing.assert_array_equal(metrics["nll_loss"], [3.5])
    np.testing.assert_array_equal(metrics["logps/best"], [-3.5])


def test_two_samples_give_the_loss_of_a_pair_with_its_better_as_target():
    # Fixture A with delta 4: 4 + 12 - 15 = 1, and a tenth of 12.
    batch = drawn([[[1], [2]]], [[1.0, 0.0]])
    losses, metrics = loss(batch, jnp.array([[[-12.0], [-15.0]]]), delta=4.0)
    np.testing.assert_allclose(losses, [2.2], rtol=1e-6)
    np.testing.assert_array_equal(metrics["rewards/accuracies"], [1.0])


def test_repetitions_ties_and_the_invalid_are_in_no_pair():
    # Left are 0 and 2, of scores 1 and 5; the fourth repeats the third and its score is ignored.
    batch = drawn([[[1], [2], [3], [3]]], [[1.0, 9.0, 5.0, 7.0]], valid=[[True, False, True, True]])
    kept = SLiCSampleRank(num_samples=4).select(KEY, batch)
    assert texts(kept) == [(0, [[1], [3]])]
    losses, _ = loss(batch, nll_weight=0.5)
    np.testing.assert_allclose(losses, [1.0 + 4.0 - 2.0 + 0.5 * 4.0])


@pytest.mark.parametrize(
    ("responses", "scores"), [([[1], [2]], [1.0, 1.0]), ([[1], [1]], [1.0, 0.0])]
)
def test_a_prompt_that_teaches_nothing_has_no_valid_response_and_no_loss(responses, scores):
    batch = drawn([responses], [scores])
    kept = SLiCSampleRank(num_samples=2).select(KEY, batch)
    assert not kept.valid.any()
    losses, _ = loss(batch, jnp.array([[[-12.0], [-15.0]]]))
    np.testing.assert_array_equal(losses, [0.0])


def test_samples_are_the_references_and_its_log_probabilities_are_not_needed():
    needs = SLiCSampleRank().needs()
    sampling = needs.sampling
    assert sampling is not None
    assert not needs.reference
    assert (sampling.source, sampling.num_samples, sampling.temperature, sampling.top_k) == (
        "reference", 8, 0.7, 40,
    )  # fmt: skip


def test_one_sample_is_refused():
    with pytest.raises(BadInput, match=r"num_samples: expected at least 2 samples a prompt; got 1"):
        SLiCSampleRank(num_samples=1)
