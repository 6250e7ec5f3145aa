"""Estimators of the divergence KL(policy || reference) from single samples of the policy.

Schulman 2020, "Approximating KL divergence". With d = log policy(y) - log ref(y), y drawn from the
policy, the mean of d is the divergence. The others trade bias, variance and sign.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.constant import constant
from alignax.core.errors import BadInput
from alignax.core.shapes import require_alike

Kind = Literal["k1", "k2", "k3", "abs"]
MAX_EXPONENT = 20.0  # e^20 is 5e8: any token that far from the reference is simply very far


def kl_estimate(
    logprobs: Float[Array, "*b"], ref_logprobs: Float[Array, "*b"], *, kind: Kind
) -> Float[Array, "*b"]:
    """One estimate for each log-probability, with d = logprobs - ref_logprobs.

    - k1: d. Unbiased, of either sign; as a loss its gradient is zero on average, so it belongs
      into the reward.
    - k2: d^2 / 2. Biased, never negative; as a loss its gradient is the divergence's own.
    - k3: exp(-d) - 1 + d. Unbiased, never negative; as a loss its gradient is that of
      KL(reference || policy).
    - abs: the absolute value of d. Biased, never negative.

    Args:
        logprobs: log-probabilities under the policy, in nats, of tokens or of whole responses.
        ref_logprobs: the same under the reference. A constant: no gradient flows into it.
        kind: which estimator.

    Returns:
        As many numbers, in nats, float32. 0 where policy and reference agree. In k3 the
        exponential takes d as at least -20 and so stays finite; the result is not clamped. Below
        -20 the exponential has no gradient, and what is left is that of d, which is 1: from there
        a descent on k3 leads on, away from the reference. Above it is 1 - exp(-d), which leads
        back.
    """
    require_alike("kl_estimate", logprobs=logprobs, ref_logprobs=ref_logprobs)
    d = logprobs.astype(jnp.float32) - constant(ref_logprobs)
    match kind:
        case "k1":
            return d
        case "k2":
            return d * d / 2.0
        case "k3":
            # expm1, because near the reference exp(-d) - 1 + d is the small rest of large terms.
            return jnp.expm1(-jnp.maximum(d, -MAX_EXPONENT)) + d
        case "abs":
            return jnp.abs(d)
    raise BadInput(
        "a kind of estimate: " + ", ".join(get_args(Kind)), repr(kind), "Choose one of these.",
        where="kl_estimate",
    )  # fmt: skip
