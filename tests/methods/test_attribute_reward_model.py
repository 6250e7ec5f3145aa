"""Reward models of attributes: errors of what was rated, and their means by the attribute."""

import jax.numpy as jnp
import numpy as np

from alignax.core.types import Outputs
from alignax.methods import AttributeRewardModel
from tests.sampled import batch_of

# Off by 2 and 0; by 3, where it was rated, and nothing.
PREDICTED = jnp.array([[[1.0, 1.0]], [[5.0, 4.0]]])
RATED = jnp.array([[[3.0, 1.0]], [[jnp.nan, 1.0]]])


def test_an_attributes_error_is_a_mean_over_the_responses_that_were_rated_for_it():
    batch = batch_of([[0.0], [0.0]], [[1], [1]])._replace(attributes=RATED)
    outputs = Outputs(logprobs=jnp.zeros((2, 1, 1)), attributes=PREDICTED)
    losses, metrics = AttributeRewardModel(attributes=("depth", "wit")).loss(outputs, batch)
    np.testing.assert_allclose(losses, [(4 + 0) / 2, 9.0])
    # Half was rated for depth: the mean of the batch is 4, the error of the one that was.
    np.testing.assert_allclose(metrics["mse/depth"], [8.0, 0.0])
    np.testing.assert_allclose(metrics["mse/wit"], [0.0, 9.0])
