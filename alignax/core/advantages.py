"""Advantages: by how much a response, or a token, did better than could be expected.

They are constants. No gradient flows through them, into rewards or into values.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from alignax.core.constant import constant
from alignax.core.shapes import require_alike
from alignax.core.types import Number


def greedy_advantage(rewards: Real[Array, "*b"], greedy: Real[Array, "*b"]) -> Float[Array, "*b"]:
    """rewards - greedy: the baseline is the policy's own greedy answer to the prompt.

    ReMax, Li et al. 2023, arXiv:2310.10505. Unbiased, because the greedy answer does not depend
    on the sampled one.

    Args:
        rewards: of the sampled responses.
        greedy: of the greedy responses to the same prompts.

    Returns:
        One advantage a response, in units of reward, float32. 0 for the greedy answer itself.
    """
    require_alike("greedy_advantage", rewards=rewards, greedy=greedy)
    return constant(rewards) - constant(greedy)


def leave_one_out_advantage(
    rewards: Real[Array, "*b k"], valid: Bool[Array, "*b k"] | None = None
) -> Float[Array, "*b k"]:
    """rewards_i - mean of the other rewards: the baseline is the prompt's other responses.

    RLOO, Ahmadian et al. 2024, arXiv:2402.14740 (Kool et al. 2019).

    Args:
        rewards: of the k responses to a prompt.
        valid: False for responses that only fill the array. All are valid where it is not given.

    Returns:
        One advantage a response, in units of reward, float32. They sum to 0 over a prompt; (1, 0)
        for two gives (1, -1). 0 where invalid, and where the prompt has one valid response.
    """
    require_alike("leave_one_out_advantage", 1, rewards=rewards, valid=valid)
    deviation, count = _deviation(rewards, valid)
    return deviation * (count / jnp.maximum(count - 1.0, 1.0))


def group_advantage(
    rewards: Real[Array, "*b k"],
    valid: Bool[Array, "*b k"] | None = None,
    *,
    scale: bool = True,
    eps: Number = 1e-4,
) -> Float[Array, "*b k"]:
    """(rewards - mean) / (std + eps) within the responses to a prompt.

    GRPO, Shao et al. 2024, arXiv:2402.03300. Without `scale` it is Dr. GRPO's, Liu et al. 2025,
    arXiv:2503.20783, which is (k - 1) / k times the leave-one-out advantage.

    Args:
        rewards: of the k responses to a prompt.
        valid: False for responses that only fill the array. All are valid where it is not given.
        scale: divide by the standard deviation (unbiased, over k - 1). It weighs prompts on which
            nearly all responses fare alike as much as others.
        eps: added to the standard deviation; at least 0. Typical: 1e-4 or 1e-6.

    Returns:
        One advantage a response, float32; with `scale` in standard deviations, else in units of
        reward. Exactly 0 where invalid, where all rewards of a prompt are the same, and where it
        has one valid response.
    """
    require_alike("group_advantage", 1, rewards=rewards, valid=valid)
    deviation, count = _deviation(rewards, valid)
    if not scale:
        return deviation
    variance = jnp.sum(deviation**2, axis=-1, keepdims=True) / jnp.maximum(count - 1.0, 1.0)
    return deviation / jnp.where(variance > 0.0, jnp.sqrt(variance) + constant(eps), 1.0)


def _deviation(
    rewards: Real[Array, "*b k"], valid: Bool[Array, "*b k"] | None
) -> tuple[Float[Array, "*b k"], Float[Array, "*b 1"]]:
    """Of valid rewards from their mean, 0 elsewhere; and how many are valid."""
    rewards = constant(rewards)
    valid = jnp.ones(rewards.shape, bool) if valid is None else valid
    count = jnp.sum(valid, axis=-1, keepdims=True, dtype=jnp.float32)
    # From the highest, before the mean: ties are then exactly 0, not a rounding error that the
    # division by their standard deviation makes large.
    highest = jnp.max(rewards, axis=-1, keepdims=True, initial=-jnp.inf, where=valid)
    rewards = jnp.where(valid, rewards - highest, 0.0)
    mean = jnp.sum(rewards, axis=-1, keepdims=True) / jnp.maximum(count, 1.0)
    return jnp.where(valid, rewards - mean, 0.0), count


def generalised_advantage(
    rewards: Real[Array, "*b r"],
    values: Float[Array, "*b r"],
    mask: Bool[Array, "*b r"],
    *,
    discount: Number,
    decay: Number,
) -> tuple[Float[Array, "*b r"], Float[Array, "*b r"]]:
    """A_t = delta_t + discount decay A_t+1, delta_t = rewards_t + discount values_t+1 - values_t.

    Schulman et al. 2015, arXiv:1506.02438. Positions off the mask are skipped: t + 1 is the next
    position on the mask, and after the last one value and advantage are 0.

    Args:
        rewards: for each token; usually a penalty for leaving the reference, and the response's
            reward at its last token.
        values: what the value head expects of the rewards still to come.
        mask: True on the tokens that count.
        discount: of a reward one token later, in [0, 1]. Typical: 1.
        decay: lambda, in [0, 1]: 0 trusts the values, 1 the rewards. Typical: 0.95.

    Returns:
        Advantages, and the returns (advantages + values) that values are to be fitted to; in units
        of reward, float32, 0 off the mask. With discount and decay 1 the returns are the sums of
        rewards to come, whatever the values.
    """
    require_alike("generalised_advantage", 1, rewards=rewards, values=values, mask=mask)
    discount, decay = constant(discount), constant(decay)

    def step(after, now):
        next_value, next_advantage = after
        reward, value, scored = now
        delta = reward + discount * next_value - value
        advantage = delta + discount * decay * next_advantage
        after = jnp.where(scored, value, next_value), jnp.where(scored, advantage, next_advantage)
        return after, advantage

    values = constant(values)
    by_token = [jnp.moveaxis(x, -1, 0) for x in (constant(rewards), values, mask)]
    # Made of what is given, so that it lies as that does where a mesh is in use.
    nothing = jnp.zeros_like(sum(jnp.sum(x, axis=0, dtype=jnp.float32) for x in by_token))
    _, advantages = jax.lax.scan(step, (nothing, nothing), tuple(by_token), reverse=True)
    advantages = jnp.moveaxis(advantages, 0, -1)
    return jnp.where(mask, advantages, 0.0), jnp.where(mask, advantages + values, 0.0)


def overlong_penalty(
    lengths: Real[Array, "*b"], *, max_length: Number, buffer: Number
) -> Float[Array, "*b"]:
    """clip((max_length - buffer - lengths) / buffer, -1, 0): a slope before the cliff.

    DAPO, Yu et al. 2025, arXiv:2503.14476, equation 13. Added to the reward.

    Args:
        lengths: of responses, in tokens.
        max_length: beyond it the penalty is -1. Typical: 20480.
        buffer: over how many tokens before `max_length` it falls from 0 to -1; with 0 there is
            only the cliff. Typical: 4096.

    Returns:
        One number a response, in [-1, 0], float32. 0 up to max_length - buffer.
    """
    max_length, buffer = constant(max_length), constant(buffer)
    left = max_length - buffer - constant(lengths)
    return jnp.clip(left / jnp.maximum(buffer, 1.0), -1.0, 0.0)
