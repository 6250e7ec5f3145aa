"""REINFORCE: the gradient of the expected reward from samples, with no critic.

Williams 1992; for language models Ahmadian et al. 2024, arXiv:2402.14740.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs, Sampling, over_step
from alignax.core.policy_gradient import policy_gradient
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import prompt_alone, reward_metrics, rewards_of
from alignax.core.setting_types import setting
from alignax.core.shaping import (
    is_zero,
    log_ratio_to_pay,
    sampled_divergence,
    sampled_log_ratios,
)
from alignax.core.types import Batch, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class REINFORCE(Method):
    """REINFORCE: -(reward - beta log-ratio - baseline) log pi(y | x), summed over tokens.

    Unbiased for the expected reward less beta times the divergence from the reference. Samples are
    used once: there is no ratio between the policies to correct for older ones.

    Fields:
        num_samples: responses to a prompt, averaged.
        temperature: of the samples, and of all log-probabilities that the loss meets.
        beta: what a nat of log-ratio costs, in units of reward, at least 0. With 0 there is no
            reference.
        kl: which log-ratios a token pays for: its own and later ones ("full-step"), or those of
            the whole response ("sequence"). The same on average; the first has less variance.
        baseline: "batch" takes the mean reward of the optimiser step from each reward. With k
            responses to each of n prompts it shrinks the part of the reward by (n k - 1) / (n k),
            because a reward is in its own mean.
    """

    num_samples: int = setting(1, at_least=1)
    temperature: float = setting(1.0, at_least=0)
    beta: Scalar = setting(0.05, at_least=0)
    kl: Literal["full-step", "sequence"] = "full-step"
    baseline: Literal["none", "batch"] = "none"

    def needs(self) -> Needs:
        """Prompts, a reward, and with beta the reference."""
        return Needs(
            record=Prompt,
            reward=True,
            reference=not is_zero(self.beta),
            sampling=Sampling(num_samples=self.num_samples, temperature=self.temperature),
            tempered=True,
            on_policy=True,
        )

    def group(self, record: Record) -> Group:
        """The prompt."""
        return prompt_alone(record)

    def means(self, outputs: Outputs, batch: Batch) -> Metrics:
        """The mean reward of each prompt, where it is the baseline."""
        del outputs
        if self.baseline == "none":
            return {}
        return {"reward": masked_mean(rewards_of(batch), batch.valid)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The mean over responses of what is summed over their tokens. Its value means nothing."""
        metrics = reward_metrics(batch)
        advantages = rewards_of(batch)
        if self.baseline == "batch":
            mean = over_step(self, outputs, batch)["reward"]
            advantages = jnp.where(batch.valid, advantages - mean, 0.0)
            metrics["baseline"] = jnp.broadcast_to(mean, advantages.shape[:1])
        if not is_zero(self.beta):
            cost = log_ratio_to_pay(sampled_log_ratios(batch), batch.mask, span=self.kl)
            advantages = advantages[..., None] - self.beta * cost
            metrics["kl"] = masked_mean(sampled_divergence(batch), batch.valid)
        losses = policy_gradient(outputs.logprobs, advantages, batch.mask)
        return masked_mean(masked_sum(losses, batch.mask), batch.valid), metrics
