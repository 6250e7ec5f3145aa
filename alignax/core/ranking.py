"""Comparing the responses to one prompt by their scores, in whatever order they come.

A response is compared with the valid ones of strictly lower score. Ties are not compared, and
what stands in an invalid slot, any number at all, touches neither value nor gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from alignax.core.constant import constant


def gaps(scores: Real[Array, "*b k"], valid: Bool[Array, "*b k"] | None) -> Float[Array, "*b k k"]:
    """[..., i, j] is how much higher i is scored than j, a constant; 0 where not compared."""
    scores = constant(scores)
    gap = scores[..., :, None] - scores[..., None, :]
    compared = gap > 0.0
    if valid is not None:
        compared &= valid[..., :, None] & valid[..., None, :]
    return jnp.where(compared, gap, 0.0)


def only_valid(x: Float[Array, "*b k"], valid: Bool[Array, "*b k"] | None) -> Float[Array, "*b k"]:
    """x in float32, with 0 in invalid slots."""
    x = x.astype(jnp.float32)
    return x if valid is None else jnp.where(valid, x, 0.0)


def ranking_nll(
    logits: Float[Array, "*b k k"], compared: Bool[Array, "*b k k"]
) -> Float[Array, "*b"]:
    """-sum_i log p_i: that each response is picked before all that it is compared with.

    Args:
        logits: [..., i, j] is the logit of j less the logit of i, when i is to be picked.
        compared: where j is to come after i.

    Returns:
        sum_i log(1 + sum_j exp(logits_ij)), in nats. A response with nothing to come after it
        adds nothing.
    """
    logits = jnp.where(compared, logits, -jnp.inf)
    itself = [(0, 0)] * (logits.ndim - 1) + [(1, 0)]  # the 1: i is among those it is picked from
    return jnp.sum(jax.nn.logsumexp(jnp.pad(logits, itself), axis=-1), axis=-1)
