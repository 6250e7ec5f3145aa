"""Rewards by the token: where a response's reward stands, and what leaving the reference costs.

The penalty is the log-ratio log policy(y_t) - log ref(y_t) of each token under the policy that
sampled it (k1 of `alignax.core.kl`): its mean over samples is the divergence, and as a constant in
the reward it gives the divergence's gradient. Everything here is a constant.
"""

from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from alignax.core.constant import constant
from alignax.core.masked import masked_sum
from alignax.core.types import Batch, Number

# How much of a response's log-ratio a token answers for.
Span = Literal["one-step", "full-step", "sequence"]


def reward_at_end(rewards: Real[Array, "*b"], mask: Bool[Array, "*b r"]) -> Float[Array, "*b r"]:
    """A response's reward at its last token on the mask, and 0 at all others.

    Args:
        rewards: one a response.
        mask: True on the tokens that count.

    Returns:
        One reward a token, float32. All 0 where the mask is empty.
    """
    return jnp.where(mask & (_tokens_left(mask) == 1), constant(rewards)[..., None], 0.0)


def log_ratio_to_pay(
    log_ratios: Float[Array, "*b r"], mask: Bool[Array, "*b r"], *, span: Span
) -> Float[Array, "*b r"]:
    """Of its response's log-ratio, what each token answers for.

    - one-step: its own log-ratio. Blind to where the token leads, so the gradient is not that of
      the divergence.
    - full-step: its own and those of all later tokens, which are what it can still change.
    - sequence: those of the whole response. The same gradient as full-step on average, with more
      variance.

    Li et al. 2023, arXiv:2310.10505, has the first two.

    Args:
        log_ratios: log policy - log reference of each token, in nats.
        mask: True on the tokens that count.
        span: which tokens are added up.

    Returns:
        As many numbers, in nats, float32, 0 off the mask.
    """
    own = jnp.where(mask, constant(log_ratios), 0.0)
    match span:
        case "one-step":
            return own
        case "full-step":
            return jnp.where(mask, jax.lax.cumsum(own, axis=own.ndim - 1, reverse=True), 0.0)
        case "sequence":
            return jnp.where(mask, jnp.sum(own, axis=-1, keepdims=True), 0.0)
        case _:
            assert_never(span)


def discount_to_end(mask: Bool[Array, "*b r"], *, discount: Number) -> Float[Array, "*b r"]:
    """discount to the power of how many tokens are left, the token itself included.

    Args:
        mask: True on the tokens that count.
        discount: in [0, 1]; at 0 the rest is 0. Typical: 1.

    Returns:
        One factor a token, in [0, 1], float32: `discount` at the last token, 0 off the mask.
    """
    return jnp.where(mask, constant(discount) ** _tokens_left(mask), 0.0)


def sampled_log_ratios(batch: Batch) -> Float[Array, "b k r"]:
    """log-probability of each token when it was sampled, less the reference's; 0 off the mask."""
    assert batch.old_logprobs is not None, "whoever samples keeps them"
    assert batch.ref_logprobs is not None, "the step checks needs().reference"
    return jnp.where(batch.mask, constant(batch.old_logprobs) - constant(batch.ref_logprobs), 0.0)


def sampled_divergence(batch: Batch) -> Float[Array, "b k"]:
    """`sampled_log_ratios` summed over each response, in nats; 0 where invalid."""
    return jnp.where(batch.valid, masked_sum(sampled_log_ratios(batch), batch.mask), 0.0)


def is_zero(weight: Number) -> bool:
    """Whether a weight is the number 0, so that what it weighs need not be there at all.

    A traced weight, and one in an array, counts as not 0.
    """
    return isinstance(weight, int | float) and weight == 0


def _tokens_left(mask: Bool[Array, "*b r"]) -> Float[Array, "*b r"]:
    """How many tokens on the mask a response has from each position on."""
    return jax.lax.cumsum(mask.astype(jnp.float32), axis=mask.ndim - 1, reverse=True)
