"""What methods on ranked lists share: order, lists that teach nothing, metrics."""

from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from alignax.core.ranking import gaps
from alignax.core.records import Group, LeftOut, Ranking, Record
from alignax.core.types import Metrics


def best_first(record: Record) -> Group:
    """A `Ranking` as a group: its responses in falling order of score, ties as they come.

    Raises:
        LeftOut: all scores are equal, so there is nothing to rank.
    """
    ranking = cast(Ranking, record)
    if len(set(ranking.scores)) == 1:
        raise LeftOut("all scores equal")
    order = sorted(range(len(ranking.scores)), key=lambda i: -ranking.scores[i])
    return Group(
        prompt=ranking.prompt,
        responses=tuple(ranking.responses[i] for i in order),
        scores=tuple(ranking.scores[i] for i in order),
        origin=ranking.origin,
        compared=True,
    )


def best(x: Float[Array, "b k"], scores: Float[Array, "b k"], valid: Bool[Array, "b k"]):
    """x of the valid response with the highest score; 0 where none is valid."""
    place = jnp.argmax(jnp.where(valid, scores, -jnp.inf), axis=-1, keepdims=True)
    found = jnp.take_along_axis(x, place, axis=-1)[..., 0]
    return jnp.where(jnp.any(valid, axis=-1), found, 0.0)


def list_metrics(
    logps: Float[Array, "b k"],
    rewards: Float[Array, "b k"],
    scores: Float[Array, "b k"],
    valid: Bool[Array, "b k"],
) -> Metrics:
    """Metrics of lists, without gradient.

    Args:
        logps: log-probability of each response under the policy, summed over its tokens, in nats.
        rewards: the method's implicit reward of each.

    Returns:
        `rewards/accuracies`: the share of pairs of unequal score that the rewards order alike, a
        tie of rewards counting as not; for two responses, whether the better one wins.
        `rewards/best` and `rewards/mean`, `logps/best`.
    """
    logps, rewards = jax.lax.stop_gradient((logps, rewards))
    compared = gaps(scores, valid) > 0.0
    right = compared & (rewards[:, :, None] > rewards[:, None, :])
    count = jnp.maximum(jnp.sum(compared, axis=(1, 2), dtype=jnp.float32), 1.0)
    there = jnp.maximum(jnp.sum(valid, axis=1, dtype=jnp.float32), 1.0)
    return {
        "rewards/accuracies": jnp.sum(right, axis=(1, 2), dtype=jnp.float32) / count,
        "rewards/best": best(rewards, scores, valid),
        "rewards/mean": jnp.sum(jnp.where(valid, rewards, 0.0), axis=1) / there,
        "logps/best": best(logps, scores, valid),
    }
