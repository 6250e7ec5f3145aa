"""Reward-weighted regression: imitate every response, the better ones more.

Peters and Schaal 2007; of language models, Hu et al. 2023, arXiv:2308.12050. The policy it leads
to is the one that made the data times exp(score / beta).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from alignax.core.constant import constant
from alignax.core.types import Number


def reward_weights(
    scores: Real[Array, "*s b"], *, beta: Number, max_weight: Number, normalise: bool = True
) -> Float[Array, "*s b"]:
    """min(exp(scores / beta), max_weight), divided by its mean where `normalise`.

    Args:
        scores: of the responses of a batch; best first brought to mean 0 and deviation 1.
        beta: the temperature, above 0. Towards 0 only the best response counts, towards infinity
            all count alike. Typical: 1.
        max_weight: the clip, above 0; it comes before the mean. Typical: 20; infinity for none.
        normalise: divide by the mean over the batch, so that the mean weight is 1.

    Returns:
        One weight a response, at least 0, float32; a constant, for its negative log-likelihood
        (`nll`). 1 where all scores are 0.
    """
    log_weights = constant(scores) / constant(beta)
    if not normalise:
        return jnp.minimum(jnp.exp(log_weights), constant(max_weight))
    # By softmax, so that scores far from 0 leave neither 0 / 0 nor infinity / infinity.
    clipped = jnp.minimum(log_weights, jnp.log(constant(max_weight)))
    return scores.shape[-1] * jax.nn.softmax(clipped, axis=-1)
