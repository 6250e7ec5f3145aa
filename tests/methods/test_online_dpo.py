"""Online DPO pairs the best of a prompt's samples with the worst, and is DPO from there on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.types import Outputs
from alignax.methods import DPO, OnlineDPO
from tests.methods.sampled import drawn, texts

KEY = jax.random.key(0)


def test_the_higher_score_comes_first_whichever_was_drawn_first():
    batch = drawn([[[1], [2, 3]], [[4], [5]]], [[0.0, 1.0], [3.0, 2.0]])
    found = jax.jit(OnlineDPO().select)(KEY, batch)
    assert texts(found) == [(0, [[2, 3], [1]]), (1, [[4], [5]])]
    np.testing.assert_array_equal(found.scores, [[1.0, 0.0], [3.0, 2.0]])


def test_of_more_than_two_the_best_meets_the_worst():
    batch = drawn([[[1], [2], [3], [4]]], [[0.5, 3.0, -1.0, 2.0]])
    assert texts(OnlineDPO(num_samples=4).select(KEY, batch)) == [(0, [[2], [3]])]


@pytest.mark.parametrize(
    ("responses", "scores", "valid"),
    [
        ([[1], [2]], [1.0, 1.0], [True, True]),
        ([[1, 2], [1, 2]], [1.0, 0.0], [True, True]),  # a reward that does not repeat itself
        ([[1], [2]], [1.0, 0.0], [True, False]),
        ([[1], [2]], [np.nan, np.nan], [False, False]),
    ],
    ids=["tie", "identical", "one valid", "none valid"],
)
def test_a_prompt_that_teaches_nothing_has_no_valid_response(responses, scores, valid):
    found = OnlineDPO().select(KEY, drawn([responses], [scores], valid=[valid]))
    assert not found.valid.any()
    assert not found.mask.any()


@pytest.mark.parametrize("swap", [False, True])
def test_the_loss_of_fixture_a_worked_by_hand(swap):
    # Log-ratios 1 (of the better) and -0.5: h = 1.5, -log sigmoid(0.15) = 0.6209570478.
    order = [1, 0] if swap else [0, 1]
    put = lambda x: [[x[i] for i in order]]  # noqa: E731
    batch = drawn(put([[1] * 4, [2] * 6]), put([2.0, -1.0]), ref=put([-13.0, -14.5]))
    kept = OnlineDPO().select(KEY, batch)
    policy = jnp.where(kept.mask, jnp.array([[[-12 / 4], [-15 / 6]]]), 0.0)
    losses, metrics = OnlineDPO(beta=0.1).loss(Outputs(policy), kept)
    np.testing.assert_allclose(losses, [0.6209570478], rtol=1e-6)
    np.testing.assert_allclose(metrics["rewards/margins"], [0.15], rtol=1e-6)
    np.testing.assert_allclose(metrics["logps/chosen"], [-12.0], rtol=1e-6)
    smoothed, _ = OnlineDPO(beta=0.1, label_smoothing=0.1).loss(Outputs(policy), kept)
    np.testing.assert_allclose(smoothed, [0.6359570478], rtol=1e-6)


def test_it_has_the_metrics_of_dpo():
    batch = drawn([[[1], [2]]], [[1.0, 0.0]], ref=[[-1.0, -1.0]])
    outputs = Outputs(jnp.full((1, 2, 1), -1.0))
    losses, metrics = OnlineDPO().loss(outputs, batch)
    np.testing.assert_allclose(losses, math.log(2.0), rtol=1e-6)
    assert set(metrics) == set(DPO().loss(outputs, batch)[1])


def test_one_sample_is_refused():
    with pytest.raises(BadInput) as refused:
        OnlineDPO(num_samples=1)
    assert str(refused.value) == (
        "num_samples: expected at least 2 samples a prompt; got 1.\n    A pair takes two."
    )
