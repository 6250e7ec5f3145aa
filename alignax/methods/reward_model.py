"""Reward models of pairs, after Bradley and Terry 1952."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from alignax.core.constant import constant
from alignax.core.types import Number


def bradley_terry(
    rewards: Float[Array, "*b 2"],
    margin: Number | Real[Array, "*b"] = 0.0,
    *,
    centre: Number = 0.0,
) -> Float[Array, "*b"]:
    """-log sigmoid(rewards[..., 0] - rewards[..., 1] - margin) + centre (sum of rewards)^2.

    With a margin it is Llama 2's, Touvron et al. 2023, arXiv:2307.09288. Differences alone leave
    the mean reward open; `centre` holds it at 0.

    Args:
        rewards: the reward model's of each response. The chosen response comes first.
        margin: by how much the chosen reward should win, one a pair or one for all. A constant.
            Typical: 0, or 1, 2/3, 1/3, 0 by how clear the preference is.
        centre: weight of the squared sum. Typical: 0 or 0.01.

    Returns:
        One loss a pair, in nats, float32. log 2 where both rewards and the margin are 0.
    """
    rewards = rewards.astype(jnp.float32)
    nll = -jax.nn.log_sigmoid(rewards[..., 0] - rewards[..., 1] - constant(margin))
    return nll + constant(centre) * jnp.sum(rewards, axis=-1) ** 2
