"""What methods share that learn from samples: prompts alone, sums over samples, metrics.

Names of metrics are TRL's. Every metric is one number a prompt, without gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from alignax.core.constant import constant
from alignax.core.errors import BadInput
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.records import Group, Record
from alignax.core.types import Batch, Metrics, Number

# How far the sampler's log-probabilities of a drawing are from the trainer's, in nats a token.
DIFFERENCE = "sampling/logp_difference"
# How far the policy's are from the reference's.
FROM_REFERENCE = "reference/logp_difference"
# The arrays of a batch that have an axis of responses.
BY_RESPONSE = (
    *("responses", "mask", "scores", "valid"),
    *("ref_logprobs", "old_logprobs", "old_values", "attributes"),
)


def prompt_alone(record: Record) -> Group:
    """A record whose responses are still to be sampled."""
    return Group(prompt=record.prompt, responses=(), scores=(), origin=record.origin)


def require_samples(count: int, least: int, why: str, *, name: str = "num_samples") -> None:
    """Refuses a number of samples with which a method can learn nothing.

    Raises:
        BadInput: fewer than `least`; `name` is the setting.
    """
    if count < least:
        raise BadInput(f"at least {least} samples a prompt", str(count), why, where=name)


def without_first(batch: Batch) -> Batch:
    """The batch without the first response to each prompt."""
    arrays = {name: getattr(batch, name) for name in BY_RESPONSE}
    return batch._replace(**{name: x[:, 1:] for name, x in arrays.items() if x is not None})


def rewards_of(batch: Batch) -> Float[Array, "b k"]:
    """The scores as constants; 0 where invalid, whatever stands there."""
    return jnp.where(batch.valid, constant(batch.scores), 0.0)


def sum_over_tokens(x: Float[Array, "b k r"], batch: Batch) -> Float[Array, " b"]:
    """Sum over all scored tokens of a prompt's valid responses, float32."""
    return masked_sum(masked_sum(x, batch.mask), batch.valid)


def mean_over_tokens(x: Float[Array, "b k r"], batch: Batch) -> Float[Array, " b"]:
    """Mean over all scored tokens of a prompt's valid responses, float32; 0 where it has none."""
    flat = lambda x: x.reshape(x.shape[0], -1)  # noqa: E731
    return masked_mean(flat(x), flat(batch.mask & batch.valid[..., None]))


def reward_metrics(batch: Batch) -> dict[str, Float[Array, " b"]]:
    """`reward`, and with several responses `reward_std` and `frac_reward_zero_std`.

    The deviation is the unbiased one, over the valid responses to a prompt. Where all their
    rewards are the same, `frac_reward_zero_std` is 1: the prompt teaches nothing.
    """
    rewards, valid = rewards_of(batch), batch.valid
    mean = masked_mean(rewards, valid)
    metrics = {"reward": mean}
    if valid.shape[1] > 1:
        count = jnp.sum(valid, axis=-1, dtype=jnp.float32)
        squares = masked_sum((rewards - mean[:, None]) ** 2, valid)
        metrics["reward_std"] = jnp.sqrt(squares / jnp.maximum(count - 1.0, 1.0))
        metrics["frac_reward_zero_std"] = 1.0 - rewards_differ(batch).astype(jnp.float32)
    return metrics


def rewards_differ(batch: Batch) -> Bool[Array, " b"]:
    """Whether a prompt has two valid responses with unequal rewards."""
    extreme = {"axis": -1, "where": batch.valid}
    highest = jnp.max(batch.scores, initial=-jnp.inf, **extreme)
    return highest > jnp.min(batch.scores, initial=jnp.inf, **extreme)


def clip_metrics(
    log_ratio: Float[Array, "*b r"],
    advantages: Float[Array, "*b r"],
    mask: Bool[Array, "*b r"],
    *,
    clip_low: Number,
    clip_high: Number,
) -> dict[str, Float[Array, "*b"]]:
    """On which share the clip of the policies' ratio stops the gradient, below and above.

    Args:
        log_ratio: log of the policy's probability less that when sampled, of tokens or responses.
        advantages: one for each.
        mask: True on those that count.
        clip_low: as in the loss.
        clip_high: as in the loss.

    Returns:
        `clip_ratio/low_mean`, `clip_ratio/high_mean` and their sum `clip_ratio/region_mean`, each
        in [0, 1].
    """
    log_ratio = jax.lax.stop_gradient(log_ratio)
    low = (log_ratio < jnp.log1p(-constant(clip_low))) & (advantages < 0.0)
    high = (log_ratio > jnp.log1p(constant(clip_high))) & (advantages > 0.0)
    low, high = (masked_mean(x.astype(jnp.float32), mask) for x in (low, high))
    return {
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low + high,
    }


def token_clip_metrics(
    logprobs: Float[Array, "b k r"],
    advantages: Float[Array, "b k"] | Float[Array, "b k r"],
    batch: Batch,
    *,
    clip_low: Number,
    clip_high: Number,
) -> Metrics:
    """`clip_metrics` over all scored tokens of a prompt's valid responses."""
    assert batch.old_logprobs is not None, "whoever samples keeps them"
    if advantages.ndim < batch.mask.ndim:
        advantages = advantages[..., None]
    arrays = (
        logprobs.astype(jnp.float32) - constant(batch.old_logprobs),
        jnp.broadcast_to(advantages, batch.mask.shape),
        batch.mask & batch.valid[..., None],
    )
    flat = [x.reshape(x.shape[0], -1) for x in arrays]
    return clip_metrics(*flat, clip_low=clip_low, clip_high=clip_high)
