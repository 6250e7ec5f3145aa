"""Preference ranking optimisation: each response against all that are ranked below it.

Song et al. 2023, arXiv:2306.17492.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from alignax.core.ranking import gaps, only_valid, ranking_nll


def pro(
    logprobs: Float[Array, "*b k"],
    scores: Real[Array, "*b k"],
    valid: Bool[Array, "*b k"] | None = None,
    *,
    temperature: bool = True,
) -> Float[Array, "*b"]:
    """-sum_i log(exp(A_i D_i) / (exp(A_i D_i) + sum_j exp(A_j D_ij))), over j scored below i.

    A = logprobs, D_ij = scores_i - scores_j, and D_i is the largest D_ij; without `temperature`
    all D are 1. This is the ranking term. The paper adds a multiple of the negative log-likelihood
    of the best response (`nll`).

    Args:
        logprobs: log-probability of each of the k responses to a prompt under the policy, in
            nats, averaged over its tokens. In any order.
        scores: of each response, higher is better; ties are not compared, and a response with
            none below it adds nothing. With `temperature` their scale is the strength of the
            loss. A constant.
        valid: False for responses that only fill the array. All are valid where it is not given.
        temperature: weigh log-probabilities by the differences of scores, as in the paper.

    Returns:
        One loss a prompt, in nats, float32. For two responses -log sigmoid(D (A_1 - A_2)), D being
        the difference of their scores, or 1.
    """
    logprobs, gap = only_valid(logprobs, valid), gaps(scores, valid)
    compared = gap > 0.0
    weight = gap if temperature else compared.astype(jnp.float32)
    # The largest D_ij. It is 0 where i has none below it, and i then adds nothing.
    own = logprobs * jnp.max(weight, axis=-1, initial=0.0)
    return ranking_nll(logprobs[..., None, :] * weight - own[..., :, None], compared)
