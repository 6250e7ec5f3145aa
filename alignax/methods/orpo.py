"""Odds-ratio preference optimisation: fine-tuning and preference in one, with no reference.

Hong et al. 2024, arXiv:2403.07691, equations 4 to 7.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HIGHEST = -1e-7  # the odds of a certain response are infinite


def orpo(logprobs: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """-log sigmoid(log odds(chosen) - log odds(rejected)), the odds-ratio term of ORPO.

    odds = p / (1 - p) with p = exp(logprobs), the geometric mean of a response's token
    probabilities. The paper weighs the term with lambda (0.1) and adds it to the negative
    log-likelihood of the chosen response (`nll`).

    Args:
        logprobs: log-probability of each response under the policy, in nats, averaged over its
            tokens. The chosen response comes first. Taken as at most -1e-7.

    Returns:
        One loss a pair, in nats, float32. log 2 where both are equally probable.
    """
    logprobs = jnp.minimum(logprobs.astype(jnp.float32), HIGHEST)
    log_odds = logprobs - jnp.log(-jnp.expm1(logprobs))
    return -jax.nn.log_sigmoid(log_odds[..., 0] - log_odds[..., 1])
