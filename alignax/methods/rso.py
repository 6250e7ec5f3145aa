"""Statistical rejection sampling: responses as if from the optimal policy, for pairs to learn from.

Liu et al. 2023, arXiv:2309.06657. The policy with the best reward less beta times its divergence
from the one that sampled is that one times exp(reward / beta); accepting its samples with
probability proportional to exp(reward / beta) draws from it. Without replacement, and with the
highest reward of those that are left in place of the highest there is, it does so nearly.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Real

from alignax.core.constant import constant
from alignax.core.masked import masked_sum
from alignax.core.method import Method, Needs, Sampling
from alignax.core.pairs import pair_metrics
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import prompt_alone, require_samples
from alignax.core.selection import distinct, pairs, take, take_pairs
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Number, Outputs, Scalar
from alignax.methods.dpo import DPO
from alignax.methods.slic import Hinge, slic


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

    # Made of what is given, so that it lies as that does where a mesh is in use.
    left = jnp.ones_like(rewards, bool) & jnp.ones_like(uniforms(jnp.int32(0)), bool)
    none = jnp.zeros_like(jnp.sum(left, dtype=jnp.int32))
    start = (none, none, left, jnp.zeros(wanted, jnp.int32) + none)
    # Each sweep accepts at least the best of those that are left, so this ends.
    return jax.lax.while_loop(lambda state: state[1] < wanted, sweep, start)[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RSO(Method):
    """Pairs of the reference's samples, picked as if the optimal policy had drawn them.

    The reference is the supervised model that is trained further. Of N samples a prompt,
    repetitions are left out and n are accepted by `rejection_sample`; they are paired, and each
    pair is ordered by the reward and becomes a prompt of its own.

    Fields:
        gamma: of the loss, above 0: how strongly the policy is held to the reference, or one over
            the margin, in nats, that the hinge asks for. The losses of DPO and hinge call it beta.
        objective: sigmoid-norm is DPO's loss, hinge-norm SLiC's hinge on log-ratios with the
            reference, hinge the same on log-probabilities, without a reference.
        beta: of the sampling: the temperature of the optimal policy, in units of the reward, at
            least 0.
        num_accepted: n, of each prompt, at least 2. Where fewer differ, there are fewer pairs.
        ranking: first-round pairs the accepted at random, n // 2 pairs; tournament goes on with
            the winners, n - 1 pairs.
        num_samples: N, of each prompt, at least num_accepted.
        temperature: of the samples.
        top_k: samples are drawn from this many tokens; 0 for all.
        refresh: updates between two drawings. The reference does not change, so that this only
            says how much is drawn at once.
        epochs: passes over what was drawn.
    """

    gamma: Scalar = setting(0.05, above=0)
    objective: Literal["sigmoid-norm", "hinge-norm", "hinge"] = "sigmoid-norm"
    beta: float = setting(0.5, at_least=0)
    num_accepted: int = 8
    ranking: Literal["first-round", "tournament"] = "first-round"
    num_samples: int = 64
    temperature: float = setting(0.7, at_least=0)
    top_k: int = setting(40, at_least=0)
    refresh: int = setting(16, at_least=1)
    epochs: int = setting(1, at_least=1)

    def __post_init__(self) -> None:
        require_samples(self.num_accepted, 2, "A pair takes two.", name="num_accepted")
        require_samples(self.num_samples, self.num_accepted, "It cannot be below num_accepted.")

    def needs(self) -> Needs:
        """Prompts, a reward, and samples of the reference; its log-probabilities for most."""
        return Needs(
            record=Prompt,
            reward=True,
            reference=self.objective != "hinge",
            sampling=Sampling(
                num_samples=self.num_samples,
                temperature=self.temperature,
                top_k=self.top_k,
                source="reference",
                refresh=self.refresh,
                epochs=self.epochs,
            ),
        )

    def group(self, record: Record) -> Group:
        """The prompt alone."""
        return prompt_alone(record)

    def select(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """b n // 2 pairs, or b (n - 1). A tie is of no use, and neither is what too few leave."""
        accept, shuffle = jax.random.split(key)
        valid = distinct(batch)
        index = jax.vmap(
            lambda key, rewards: rejection_sample(
                key, rewards, num_samples=self.num_accepted, beta=self.beta
            )
        )(jax.random.split(accept, len(valid)), jnp.where(valid, batch.scores, -jnp.inf))
        there = jnp.take_along_axis(valid, index, axis=1)
        # The better ones tend to be accepted first. What only fills goes last and meets its like.
        place = jnp.where(there, jax.random.uniform(shuffle, index.shape), 1.0)
        order = jnp.argsort(place, axis=1)
        index, there = (jnp.take_along_axis(x, order, axis=1) for x in (index, there))
        accepted = take(batch, index, there)
        return take_pairs(accepted, *pairs(accepted.scores, there, self.ranking))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The loss of each pair; rewards are gamma times log-ratios or log-probabilities."""
        if self.objective == "sigmoid-norm":
            return DPO(beta=self.gamma).loss(outputs, batch)
        if self.objective == "hinge-norm":
            return Hinge(beta=self.gamma).loss(outputs, batch)
        logps = masked_sum(outputs.logprobs, batch.mask)
        return slic(self.gamma * logps, delta=1.0), pair_metrics(logps, self.gamma * logps)
