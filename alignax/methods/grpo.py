"""GRPO: PPO's clipped loss with advantages from the samples of a prompt, and no critic.

Shao et al. 2024, arXiv:2402.03300.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.advantages import group_advantage
from alignax.core.constant import constant
from alignax.core.kl import kl_estimate
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs, Sampling
from alignax.core.policy_gradient import clipped_policy_gradient
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import (
    mean_over_tokens,
    prompt_alone,
    require_samples,
    reward_metrics,
    rewards_of,
    token_clip_metrics,
)
from alignax.core.setting_types import setting
from alignax.core.shaping import is_zero
from alignax.core.types import Batch, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO(Method):
    """GRPO: clipped policy gradient and beta k3, averaged over a response, then over responses.

    The advantage is (reward - mean) / (std + eps) within a prompt. The division by the standard
    deviation, and that by the response's length, make its gradient another than the expected
    reward's (`DrGRPO` has neither). The KL is in the loss, with gradient.

    Fields:
        num_samples: responses to a prompt, at least 2. Typical: 8 to 64.
        temperature: of the samples, and of all log-probabilities that the loss meets.
        clip: of the policies' ratio of a token to 1, at least 0.
        beta: weight of the KL to the reference, at least 0. With 0 there is no reference.
        scale: divide by the standard deviation.
        eps: added to the standard deviation, at least 0.
        epochs: passes over what was drawn.
        refresh: updates between two drawings. With 1 the ratio is 1 and nothing is clipped.
    """

    num_samples: int = 8
    temperature: float = setting(1.0, at_least=0)
    clip: Scalar = setting(0.2, at_least=0)
    beta: Scalar = setting(0.04, at_least=0)
    scale: bool = True
    eps: Scalar = setting(1e-4, at_least=0)
    epochs: int = setting(1, at_least=1)
    refresh: int = setting(1, at_least=1)

    def __post_init__(self) -> None:
        require_samples(self.num_samples, 2, "A sample is compared with the others.")

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
        )

    def group(self, record: Record) -> Group:
        """The prompt."""
        return prompt_alone(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Means over tokens, then over responses. The policy's part is 0 where policies agree.

        In the metrics `kl` is what it is in other methods, the log-ratio of a whole response (k1);
        `kl/per_token`, which TRL calls `kl`, the mean of the loss's k3 over a prompt's tokens.
        """
        assert batch.old_logprobs is not None, "whoever samples keeps them"
        advantages = group_advantage(rewards_of(batch), batch.valid, scale=self.scale, eps=self.eps)
        clips = {"clip_low": self.clip, "clip_high": self.clip}
        losses = clipped_policy_gradient(
            outputs.logprobs, batch.old_logprobs, advantages, batch.mask, **clips
        )
        metrics = reward_metrics(batch)
        metrics |= token_clip_metrics(outputs.logprobs, advantages, batch, **clips)
        if not is_zero(self.beta):
            assert batch.ref_logprobs is not None, "the step checks needs().reference"
            # Off the mask both are 0, so that what stands there reaches no exponential.
            logprobs, ref = (
                jnp.where(batch.mask, x, 0.0) for x in (outputs.logprobs, batch.ref_logprobs)
            )
            k3 = kl_estimate(logprobs, ref, kind="k3")
            losses = losses + self.beta * k3
            ratio = masked_sum(kl_estimate(logprobs, ref, kind="k1"), batch.mask)
            metrics["kl"] = masked_mean(ratio, batch.valid)
            metrics["kl/per_token"] = mean_over_tokens(constant(k3), batch)
        return masked_mean(masked_mean(losses, batch.mask), batch.valid), metrics
