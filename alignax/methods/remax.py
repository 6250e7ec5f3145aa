"""ReMax: REINFORCE whose baseline is the reward of the policy's own greedy answer.

Li et al. 2023, arXiv:2310.10505.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from alignax.core.advantages import greedy_advantage
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs, Sampling
from alignax.core.policy_gradient import policy_gradient
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import (
    prompt_alone,
    require_samples,
    rewards_of,
    sum_over_tokens,
    without_first,
)
from alignax.core.setting_types import setting
from alignax.core.shaping import (
    Span,
    discount_to_end,
    is_zero,
    log_ratio_to_pay,
    sampled_divergence,
    sampled_log_ratios,
)
from alignax.core.types import Batch, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReMax(Method):
    """ReMax: -(reward - greedy reward - beta log-ratio) log pi(y | x).

    The greedy answer gives its reward and nothing else: no log-probability, no gradient. It is
    the paper's objective by default; `official` is what the authors' code does. A prompt whose
    greedy answer has no reward, or was cut with `rollout.truncated="mask"`, teaches nothing.

    Fields:
        num_samples: responses to a prompt, the greedy one included; at least 2.
        temperature: of the samples, and of all log-probabilities that the loss meets.
        top_p: of the samples, in (0, 1]. The gradient is unbiased at 1.
        beta: what a nat of log-ratio costs, in units of reward, at least 0. With 0 there is no
            reference.
        kl: which log-ratios a token pays for: its own ("one-step", biased), its own and later
            ones ("full-step"), or those of the whole response ("sequence").
        discount: of the advantage, for each token to the end, in [0, 1]. 1 in the paper.
        clip: of the advantage, after the greedy reward is taken off, above 0; None for none.
        reduction: losses are summed over a response and averaged over prompts ("sequence"), or
            averaged over the tokens of the whole step ("token").
    """

    num_samples: int = 2
    temperature: float = setting(1.0, at_least=0)
    top_p: float = setting(1.0, above=0, at_most=1)
    beta: Scalar = setting(0.1, at_least=0)
    kl: Span = "full-step"
    discount: Scalar = setting(1.0, at_least=0, at_most=1)
    clip: float | None = setting(None, above=0)
    reduction: Literal["sequence", "token"] = "sequence"

    def __post_init__(self) -> None:
        require_samples(self.num_samples, 2, "The first is the greedy answer, the baseline.")

    @classmethod
    def official(cls) -> "ReMax":
        """The settings of the authors' code: one-step KL, discount, clip, mean over tokens."""
        return cls(beta=0.05, kl="one-step", discount=0.99, clip=5.0, reduction="token", top_p=0.9)

    def needs(self) -> Needs:
        """Prompts, a reward, a greedy answer beside the sample, and with beta the reference."""
        return Needs(
            record=Prompt,
            reward=True,
            reference=not is_zero(self.beta),
            sampling=Sampling(
                num_samples=self.num_samples,
                temperature=self.temperature,
                top_p=self.top_p,
                greedy_first=True,
            ),
            tempered=True,
            on_policy=True,
            mean_over="tokens" if self.reduction == "token" else "prompts",
        )

    def group(self, record: Record) -> Group:
        """The prompt."""
        return prompt_alone(record)

    def select(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """The samples; their scores are the rewards less the greedy answer's."""
        del key
        rewards = rewards_of(batch)
        valid = batch.valid & batch.valid[:, :1]
        scores = greedy_advantage(rewards, jnp.broadcast_to(rewards[:, :1], rewards.shape))
        return without_first(batch._replace(scores=jnp.where(valid, scores, 0.0), valid=valid))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Of the selected samples. Its value means nothing."""
        scores = rewards_of(batch)
        metrics = {"advantages": masked_mean(scores, batch.valid)}
        if self.clip is not None:
            scores = jnp.clip(scores, -self.clip, self.clip)
        advantages = scores[..., None] * discount_to_end(batch.mask, discount=self.discount)
        if not is_zero(self.beta):
            cost = log_ratio_to_pay(sampled_log_ratios(batch), batch.mask, span=self.kl)
            advantages = advantages - self.beta * cost
            metrics["kl"] = masked_mean(sampled_divergence(batch), batch.valid)
        losses = policy_gradient(outputs.logprobs, advantages, batch.mask)
        if self.reduction == "token":
            return sum_over_tokens(losses, batch), metrics
        return masked_mean(masked_sum(losses, batch.mask), batch.valid), metrics
