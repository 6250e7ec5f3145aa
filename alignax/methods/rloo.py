"""RLOO: REINFORCE whose baseline is the mean reward of the prompt's other samples.

Ahmadian et al. 2024, arXiv:2402.14740.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.advantages import leave_one_out_advantage
from alignax.core.constant import constant
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs, Sampling
from alignax.core.policy_gradient import clipped_policy_gradient, policy_gradient
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import (
    clip_metrics,
    prompt_alone,
    require_samples,
    reward_metrics,
    rewards_of,
)
from alignax.core.setting_types import setting
from alignax.core.shaping import is_zero, sampled_divergence
from alignax.core.types import Batch, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLOO(Method):
    """RLOO: -(R_i - mean of the other R) log pi(y_i | x), R = reward - beta log-ratio.

    Unbiased for the expected reward less beta times the divergence from the reference. The
    log-ratio is the whole response's, under the policy that sampled it.

    Fields:
        num_samples: responses to a prompt, at least 2. Typical: 2 or 4.
        temperature: of the samples, and of all log-probabilities that the loss meets.
        beta: what a nat of log-ratio costs, in units of reward, at least 0. With 0 there is no
            reference.
        clip: of the ratio of a whole response's probabilities to 1, at least 0, where samples are
            older than the policy; None leaves the ratio out. Typical: 0.2.
        epochs: passes over what was drawn. More than one needs `clip`.
        refresh: updates between two drawings. More than one needs `clip`.
    """

    num_samples: int = 4
    temperature: float = setting(1.0, at_least=0)
    beta: Scalar = setting(0.05, at_least=0)
    clip: float | None = setting(None, at_least=0)
    epochs: int = setting(1, at_least=1)
    refresh: int = setting(1, at_least=1)

    def __post_init__(self) -> None:
        require_samples(self.num_samples, 2, "The others are the baseline of each.")

    def needs(self) -> Needs:
        """Prompts, a reward, several samples a prompt, and with beta the reference."""
        return Needs(
            record=Prompt,
            reward=True,
            reference=not is_zero(self.beta),
            sampling=Sampling(
                num_samples=self.num_samples,
                temperature=self.temperature,
                epochs=self.epochs,
                refresh=self.refresh,
            ),
            tempered=True,
            on_policy=self.clip is None,
        )

    def group(self, record: Record) -> Group:
        """The prompt."""
        return prompt_alone(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The mean over responses; each with the sum of its log-probabilities, or their ratio."""
        metrics = reward_metrics(batch)
        rewards = rewards_of(batch)
        if not is_zero(self.beta):
            divergence = sampled_divergence(batch)
            rewards = rewards - self.beta * divergence
            metrics["kl"] = masked_mean(divergence, batch.valid)
        advantages = leave_one_out_advantage(rewards, batch.valid)
        if self.clip is None:
            losses = masked_sum(
                policy_gradient(outputs.logprobs, advantages, batch.mask), batch.mask
            )
            return masked_mean(losses, batch.valid), metrics
        assert batch.old_logprobs is not None, "whoever samples keeps them"
        # A response is one token whose log-probability is the sum: its ratio is exp of this.
        log_ratio = masked_sum(outputs.logprobs - constant(batch.old_logprobs), batch.mask)
        clips = {"clip_low": self.clip, "clip_high": self.clip}
        losses = clipped_policy_gradient(
            log_ratio, jnp.zeros_like(log_ratio), advantages, batch.valid, **clips
        )
        metrics |= clip_metrics(log_ratio, advantages, batch.valid, **clips)
        return masked_mean(losses, batch.valid), metrics
