"""Losses of policy gradients, one number a token, and of the value head beside them.

How tokens are averaged (over a response, over the batch, by a constant) is what many methods
differ in, and is not decided here: results are per token and 0 off the mask. Numbers off the mask
touch neither value nor gradient, whatever they are.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from alignax.core.constant import constant
from alignax.core.masked import masked_mean
from alignax.core.shapes import require_advantages, require_alike
from alignax.core.types import Number

MAX_LOG_RATIO = 20.0  # e^20 is 5e8: finite, and far beyond any clip


def policy_gradient(
    logprobs: Float[Array, "*b r"],
    advantages: Float[Array, "*b"] | Float[Array, "*b r"],
    mask: Bool[Array, "*b r"],
) -> Float[Array, "*b r"]:
    """-advantages logprobs, the loss whose gradient is that of the expected reward.

    REINFORCE, Williams 1992. Summed over a response it is -A log pi(y | x).

    Args:
        logprobs: log-probability of each response token under the policy, in nats.
        advantages: one a response or one a token. A constant: no gradient flows into it.
        mask: True on the tokens that count.

    Returns:
        One loss a token, float32. Its value means nothing; its gradient is -advantages.
    """
    require_alike("policy_gradient", 1, logprobs=logprobs, mask=mask)
    require_advantages("policy_gradient", advantages, mask)
    logprobs = jnp.where(mask, logprobs.astype(jnp.float32), 0.0)
    return -_by_token(mask, advantages) * logprobs


def clipped_policy_gradient(
    logprobs: Float[Array, "*b r"],
    old_logprobs: Float[Array, "*b r"],
    advantages: Float[Array, "*b"] | Float[Array, "*b r"],
    mask: Bool[Array, "*b r"],
    *,
    clip_low: Number,
    clip_high: Number,
    dual_clip: Number | None = None,
) -> Float[Array, "*b r"]:
    """-min(q A, clip(q, 1 - clip_low, 1 + clip_high) A) with q = exp(logprobs - old_logprobs).

    PPO, Schulman et al. 2017, arXiv:1707.06347, equation 7; unequal clips are DAPO's,
    arXiv:2503.14476; `dual_clip` is Ye et al. 2019, arXiv:1912.09729.

    Args:
        logprobs: log-probability of each response token under the policy, in nats.
        old_logprobs: the same under the policy that sampled the response. A constant.
        advantages: one a response or one a token. A constant.
        mask: True on the tokens that count.
        clip_low: how far below 1 the ratio still counts, in [0, 1]. Typical: 0.2.
        clip_high: how far above 1, at least 0. Typical: 0.2; DAPO 0.28.
        dual_clip: where the advantage is negative the loss is at most -dual_clip A; above 1.
            Typical: 3. None for no such bound.

    Returns:
        One loss a token, float32. -A where the policies agree, and there the gradient is -A too.
        The log-ratio is clamped to +-20 before the exponential, so that all stays finite.
    """
    _require("clipped_policy_gradient", logprobs, old_logprobs, advantages, mask)
    log_ratio = logprobs.astype(jnp.float32) - constant(old_logprobs)
    advantages = _by_token(mask, advantages)
    loss = _clipped(jnp.where(mask, log_ratio, 0.0), advantages, clip_low, clip_high)
    if dual_clip is None:
        return loss
    bound = -constant(dual_clip) * advantages
    return jnp.where(advantages < 0.0, jnp.minimum(loss, bound), loss)


def sequence_clipped_policy_gradient(
    logprobs: Float[Array, "*b r"],
    old_logprobs: Float[Array, "*b r"],
    advantages: Float[Array, "*b"] | Float[Array, "*b r"],
    mask: Bool[Array, "*b r"],
    *,
    clip_low: Number,
    clip_high: Number,
) -> Float[Array, "*b r"]:
    """-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(mean(logprobs - old_logprobs)).

    GSPO, Zheng et al. 2025, arXiv:2507.18071: one ratio a response, the geometric mean of its
    tokens' ratios, through which the gradient flows.

    Args:
        logprobs: log-probability of each response token under the policy, in nats.
        old_logprobs: the same under the policy that sampled the response. A constant.
        advantages: one a response or one a token. A constant.
        mask: True on the tokens that count, and over which the mean is taken.
        clip_low: how far below 1 the ratio still counts, in [0, 1]. Typical: 3e-4, because of the
            mean.
        clip_high: how far above 1, at least 0. Typical: 4e-4.

    Returns:
        The response's loss at each of its tokens, float32: its mean over the mask is the loss of
        the paper. -A where the policies agree. The mean log-ratio is clamped to +-20.
    """
    _require("sequence_clipped_policy_gradient", logprobs, old_logprobs, advantages, mask)
    log_ratio = logprobs.astype(jnp.float32) - constant(old_logprobs)
    log_ratio = jnp.broadcast_to(masked_mean(log_ratio, mask)[..., None], mask.shape)
    return _clipped(log_ratio, _by_token(mask, advantages), clip_low, clip_high)


def clipped_value(
    values: Float[Array, "*b r"],
    old_values: Float[Array, "*b r"],
    returns: Float[Array, "*b r"],
    mask: Bool[Array, "*b r"],
    *,
    clip: Number,
) -> Float[Array, "*b r"]:
    """0.5 max((v - R)^2, (clip(v, old - clip, old + clip) - R)^2): PPO's loss of the value head.

    Schulman et al. 2017, arXiv:1707.06347, in the clipped form of its first implementation.

    Args:
        values: the value head's output v for each token.
        old_values: the same when the responses were sampled. A constant.
        returns: R, what the values are to be. A constant.
        mask: True on the tokens that count.
        clip: how far from its old value a value is led at once, in units of reward, above 0.
            Typical: 0.2.

    Returns:
        One loss a token, in squared units of reward, float32. 0 where v = R and v is near old.
    """
    require_alike(
        "clipped_value", 1, values=values, old_values=old_values, returns=returns, mask=mask
    )
    values, old, returns = (
        jnp.where(mask, x, 0.0)
        for x in (values.astype(jnp.float32), constant(old_values), constant(returns))
    )
    clip = constant(clip)
    near = jnp.clip(values, old - clip, old + clip)
    free, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * jnp.where(clipped > free, clipped, free)


def _require(loss, logprobs, old_logprobs, advantages, mask):
    require_alike(loss, 1, logprobs=logprobs, old_logprobs=old_logprobs, mask=mask)
    require_advantages(loss, advantages, mask)


def _by_token(
    mask: Bool[Array, "*b r"], advantages: Float[Array, "*b"] | Float[Array, "*b r"]
) -> Float[Array, "*b r"]:
    """One constant advantage a token, 0 off the mask."""
    advantages = constant(advantages)
    if advantages.ndim < mask.ndim:
        advantages = advantages[..., None]
    return jnp.where(mask, advantages, 0.0)


def _clipped(log_ratio, advantages, clip_low, clip_high):
    ratio = jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    clipped = jnp.clip(ratio, 1.0 - constant(clip_low), 1.0 + constant(clip_high)) * advantages
    # `where` and not `minimum`: on the very edge of the clip the whole gradient flows.
    return -jnp.where(clipped < ratio * advantages, clipped, ratio * advantages)
