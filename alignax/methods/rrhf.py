"""RRHF: rank responses by their log-probability as a reward ranks them.

Yuan et al. 2023, arXiv:2304.05302.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from alignax.core.ranking import gaps, only_valid


def rrhf(
    logprobs: Float[Array, "*b k"],
    scores: Real[Array, "*b k"],
    valid: Bool[Array, "*b k"] | None = None,
) -> Float[Array, "*b"]:
    """sum over pairs with scores_i > scores_j of max(0, logprobs_j - logprobs_i).

    The ranking term. The paper adds the negative log-likelihood of the best response (`nll`).

    Args:
        logprobs: log-probability of each of the k responses to a prompt under the policy, in
            nats, averaged over its tokens. In any order.
        scores: of each response, higher is better. Only their order counts; ties are not
            compared. A constant.
        valid: False for responses that only fill the array. All are valid where it is not given.

    Returns:
        One loss a prompt, in nats a token, float32. 0 where the log-probabilities are ordered as
        the scores are.
    """
    logprobs = only_valid(logprobs, valid)
    wrong = jax.nn.relu(logprobs[..., None, :] - logprobs[..., :, None])
    return jnp.sum(jnp.where(gaps(scores, valid) > 0.0, wrong, 0.0), axis=(-2, -1))
