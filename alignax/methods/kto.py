"""Kahneman-Tversky optimisation: single responses, each labelled desirable or not.

Ethayarajh et al. 2024, arXiv:2402.01306, equation 7.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from alignax.core.constant import constant
from alignax.core.types import Number


def kto(
    logprobs: Float[Array, "*b"],
    ref_logprobs: Float[Array, "*b"],
    desirable: Bool[Array, "*b"],
    kl: Number | Float[Array, "*b"],
    *,
    beta: Number,
    desirable_weight: Number = 1.0,
    undesirable_weight: Number = 1.0,
) -> Float[Array, "*b"]:
    """One minus the value of a response, by how its reward compares with the average one.

    With h = logprobs - ref_logprobs - kl the loss is desirable_weight sigmoid(-beta h) where
    desirable, else undesirable_weight sigmoid(beta h).

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens.
        ref_logprobs: the same under the reference policy. A constant: no gradient flows into it.
        desirable: whether the response is one to make more probable.
        kl: the reference point, in nats, one for all responses: max(0, mean of the log-ratios of
            prompts and responses that do not belong together), so already at least 0. A constant.
        beta: how strongly the policy is held to the reference. Typical: 0.1.
        desirable_weight: of desirable responses. So chosen that over the data
            desirable_weight desirable / (undesirable_weight undesirable) is in [1, 4/3].
        undesirable_weight: of undesirable responses.

    Returns:
        One loss a response, in [0, its weight], float32. Half the weight where the policy equals
        the reference and kl is 0.
    """
    margin = constant(beta) * (logprobs.astype(jnp.float32) - constant(ref_logprobs) - constant(kl))
    good = constant(desirable_weight) * jax.nn.sigmoid(-margin)
    bad = constant(undesirable_weight) * jax.nn.sigmoid(margin)
    return jnp.where(desirable, good, bad)
