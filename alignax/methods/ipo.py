"""Identity preference optimisation: lead the margin to a finite target instead of to infinity.

Azar et al. 2023, arXiv:2310.12036, equation 17.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.constant import constant
from alignax.core.types import Number


def ipo(
    logprobs: Float[Array, "*b 2"], ref_logprobs: Float[Array, "*b 2"], *, tau: Number
) -> Float[Array, "*b"]:
    """Squared distance of the log-ratios' difference from its target.

    With h = (logprobs - ref_logprobs)[..., 0] - (logprobs - ref_logprobs)[..., 1] the loss is
    (h - 1 / (2 tau))^2, the same for sums and for averages over tokens.

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens as in the paper, or averaged as its authors advise. The chosen response comes
            first.
        ref_logprobs: the same under the reference policy. A constant: no gradient flows into it.
        tau: how strongly the policy is held to the reference, above 0. Typical: 0.01 to 0.5. The
            target is in nats a response, or with averages in nats a token.

    Returns:
        One loss a pair, in squared nats, float32. 1 / (4 tau^2) where the policy equals the
        reference.
    """
    ratio = logprobs.astype(jnp.float32) - constant(ref_logprobs)
    return (ratio[..., 0] - ratio[..., 1] - 0.5 / constant(tau)) ** 2
