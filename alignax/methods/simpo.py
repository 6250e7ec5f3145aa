"""Simple preference optimisation: average log-probabilities as rewards, a margin, no reference.

Meng et al. 2024, arXiv:2405.14734.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.constant import constant
from alignax.core.types import Number


def simpo(logprobs: Float[Array, "*b 2"], *, beta: Number, gamma: Number) -> Float[Array, "*b"]:
    """-log sigmoid(beta (logprobs[..., 0] - logprobs[..., 1]) - gamma).

    Args:
        logprobs: log-probability of each response under the policy, in nats, averaged over its
            tokens. The chosen response comes first.
        beta: the scale of the implicit reward. Typical: 2 to 10.
        gamma: the margin by which the chosen reward should win, in units of reward; the authors'
            gamma_beta_ratio is gamma / beta. Typical: 0.3 beta to 0.8 beta.

    Returns:
        One loss a pair, in nats, float32. log(1 + e^gamma) where both are equally probable.
    """
    logprobs = logprobs.astype(jnp.float32)
    margin = constant(beta) * (logprobs[..., 0] - logprobs[..., 1])
    return -jax.nn.log_sigmoid(margin - constant(gamma))
