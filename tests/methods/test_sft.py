"""SFT is the summed negative log-likelihood of the scored tokens, divided by their number."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.records import Demonstration
from alignax.core.types import Batch, Outputs
from alignax.losses import nll
from alignax.methods import SFT


def batch(mask, valid=None) -> Batch:
    mask = jnp.asarray(mask)
    b, k, r = mask.shape
    return Batch(
        prompts=jnp.zeros((b, 1), jnp.int32),
        prompt_lengths=jnp.ones(b, jnp.int32),
        responses=jnp.zeros((b, k, r), jnp.int32),
        mask=mask,
        scores=jnp.zeros((b, k)),
        valid=jnp.ones((b, k), bool) if valid is None else jnp.asarray(valid),
    )


def test_uniform_tokens_cost_the_log_of_the_vocabulary_each():
    # 3 of 5 tokens count, each of probability 1/50: 3 log 50.
    mask = jnp.array([True, True, False, True, False])
    np.testing.assert_allclose(
        nll(jnp.full(5, -math.log(50.0)), mask), 3 * math.log(50.0), rtol=1e-6
    )


def test_only_the_mask_counts_and_nan_off_it_changes_nothing():
    logprobs, mask = jnp.array([-1.0, jnp.nan, -0.25]), jnp.array([True, False, True])
    value, gradient = jax.value_and_grad(nll)(logprobs, mask)
    assert float(value) == 1.25
    np.testing.assert_array_equal(gradient, [-1.0, 0.0, -1.0])


def test_an_empty_mask_has_no_loss_and_no_gradient():
    value, gradient = jax.value_and_grad(nll)(jnp.full(4, -3.0), jnp.zeros(4, bool))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_the_method_sums_over_tokens_and_responses_and_does_not_average():
    mask = [[[True, True, False]], [[True, False, False]]]
    losses, metrics = SFT().loss(
        Outputs(jnp.array([[[-1.0, -2.0, -9.0]], [[-0.5, -9.0, -9.0]]])), batch(mask)
    )
    np.testing.assert_allclose(losses, [3.0, 0.5])
    np.testing.assert_allclose(metrics["logps/mean_token"], [-1.5, -0.5])
    assert list(metrics) == ["logps/mean_token"]


def test_an_invalid_response_counts_for_nothing():
    logprobs = jnp.array([[[-1.0, -2.0], [-5.0, jnp.nan]]])
    given = batch(np.ones((1, 2, 2), bool), valid=[[True, False]])
    losses, metrics = SFT().loss(Outputs(logprobs), given)
    np.testing.assert_allclose(losses, [3.0])
    np.testing.assert_allclose(metrics["logps/mean_token"], [-1.5])


def test_needs_demonstrations_and_a_mean_over_the_tokens_of_the_step():
    needs = SFT().needs()
    assert (needs.record, needs.mean_over, needs.reference) == (Demonstration, "tokens", False)


def test_its_group_is_the_one_response():
    group = SFT().group(Demonstration(prompt="p", response="answer", origin="f:1"))
    assert (group.prompt, group.responses, group.scores) == ("p", ("answer",), (0.0,))
    assert group.origin == "f:1"
