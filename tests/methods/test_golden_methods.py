"""Whole methods equal their authors' own trainers: likelihood terms, averages, reference point.

`tests/golden/methods.json` says of each which function of which version it was.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.types import Batch, Outputs
from alignax.methods import KTO, PRO, RRHF

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "methods.json").read_text())
METHODS = {"RRHF": RRHF, "PRO": PRO, "KTO": KTO}


def given(case) -> tuple[jax.Array, Batch]:
    """Log-probabilities, and the batch they are of: one list, or five labelled responses."""
    if case["list"] is None:
        data = GOLDEN["labelled"]
        logprobs, mask, ref = (jnp.array(data[x]) for x in ("logprobs", "mask", "ref_logprobs"))
        scores, prompt = jnp.array([[float(x), 0.0] for x in data["desirable"]]), 1
    else:
        data = GOLDEN["lists"][case["list"]]
        logprobs, mask, scores = (jnp.array([data[x]]) for x in ("logprobs", "mask", "scores"))
        ref, prompt = None, data["prompt_length"]
    return logprobs, Batch(
        prompts=jnp.zeros((len(mask), prompt), jnp.int32),
        prompt_lengths=jnp.full(len(mask), prompt, jnp.int32),
        responses=jnp.zeros(mask.shape, jnp.int32),
        mask=mask,
        scores=scores,
        valid=jnp.ones(mask.shape[:2], bool),
        ref_logprobs=ref,
    )


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['method']}-{c['list']}")
def test_loss_and_gradient_are_those_of_the_authors_trainer(case):
    method = METHODS[case["method"]](**case["settings"])
    logprobs, batch = given(case)
    value, gradient = jax.value_and_grad(
        lambda x: jnp.mean(method.loss(Outputs(logprobs=x), batch)[0])
    )(logprobs)
    np.testing.assert_allclose(value, case["loss"], rtol=2e-5)
    expected = np.array(case["gradient"]).reshape(logprobs.shape)
    np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=1e-7)


def test_the_labelled_responses_have_a_reference_point_above_zero():
    # Else the cases above would not tell whether it is there at all.
    logprobs, batch = given({"list": None})
    metrics = KTO().loss(Outputs(logprobs=logprobs), batch)[1]
    assert metrics["kl"][0] > 0.1
