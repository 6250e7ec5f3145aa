"""Statistical rejection sampling: responses as if from the optimal policy, for pairs to learn from.

Liu et al. 2023, arXiv:2309.06657. The policy with the best reward less beta times its divergence
from the one that sampled is that one times exp(reward / beta); accepting its samples with
probability proportional to exp(reward / beta) draws from it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Real

from alignax.core.constant import constant
from alignax.core.types import Number


def rejection_sample(
    key: PRNGKeyArray, rewards: Real[Array, " n"], *, num_samples: int, beta: Number
) -> Int[Array, " m"]:
    """Picks candidates without replacement, the better ones with higher probability.

    Sweep after sweep over the candidates that are left, each is accepted with probability
    exp((reward - highest reward left) / beta), until there are enough. The candidates are shuffled
    first, so that their order does not matter.

    Args:
        key: of the random choice. The same key gives the same candidates.
        rewards: of the n candidates, for one prompt. A NaN counts as minus infinity.
        num_samples: how many to pick. A Python integer, because it is a shape.
        beta: the temperature, at least 0. Towards 0 the best are picked, the very best first;
            towards infinity any. Typical: 0.5.

    Returns:
        min(num_samples, n) distinct indices into rewards, in the order of acceptance, int32.
    """
    shuffle, sweeps = jax.random.split(key)
    order = jax.random.permutation(shuffle, rewards.shape[0])
    picked = sweep_until(
        constant(rewards)[order],
        lambda sweep: jax.random.uniform(jax.random.fold_in(sweeps, sweep), rewards.shape),
        num_samples=num_samples,
        beta=beta,
    )
    return order[picked].astype(jnp.int32)


def sweep_until(
    rewards: Float[Array, " n"],
    uniforms: Callable[[Int[Array, ""]], Float[Array, " n"]],
    *,
    num_samples: int,
    beta: Number,
) -> Int[Array, " m"]:
    """The sampling itself, given its random numbers.

    Args:
        rewards: of the n candidates, in the order of a sweep.
        uniforms: of a sweep, counted from 0: one number in [0, 1) for each candidate.
        num_samples: how many to pick, at most all.
        beta: the temperature, at least 0.

    Returns:
        min(num_samples, n) indices, in the order of acceptance.
    """
    wanted, beta = min(num_samples, rewards.shape[0]), constant(beta)
    rewards = jnp.where(jnp.isnan(rewards), -jnp.inf, rewards)  # else no sweep would accept any

    def sweep(state):
        number, found, left, picked = state
        highest = jnp.max(rewards, initial=-jnp.inf, where=left)
        # Said apart, because for the highest itself it may be 0 / 0 or infinity less infinity.
        probability = jnp.where(rewards == highest, 1.0, jnp.exp((rewards - highest) / beta))
        accepted = left & (uniforms(number) < probability)
        # Places from `wanted` on are dropped: those of what is not accepted, or beyond enough.
        place = found + jnp.cumsum(accepted, dtype=jnp.int32) - 1
        place = jnp.where(accepted, place, wanted)
        picked = picked.at[place].set(jnp.arange(rewards.shape[0], dtype=jnp.int32), mode="drop")
        return number + 1, found + jnp.sum(accepted, dtype=jnp.int32), left & ~accepted, picked

    start = (
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
        jnp.ones(rewards.shape, bool),
        jnp.zeros(wanted, jnp.int32),
    )
    # Each sweep accepts at least the best of those that are left, so this ends.
    return jax.lax.while_loop(lambda state: state[1] < wanted, sweep, start)[-1]
