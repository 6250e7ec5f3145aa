"""GSPO: GRPO with one ratio a response in place of one a token.

Zheng et al. 2025, arXiv:2507.18071.
"""

import dataclasses

from jaxtyping import Array, Float

from alignax.core.advantages import group_advantage
from alignax.core.constant import constant
from alignax.core.masked import masked_mean
from alignax.core.method import Method, Needs, Sampling
from alignax.core.policy_gradient import sequence_clipped_policy_gradient
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import (
    clip_metrics,
    prompt_alone,
    require_samples,
    reward_metrics,
    rewards_of,
)
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class GSPO(Method):
    """GSPO: -min(s A, clip(s) A) with s the geometric mean of a response's ratios.

    Rewards are a response's, and so is what is clipped. The mean makes s far closer to 1 than a
    token's ratio, hence the small clips. There is no KL and no reference.

    Fields:
        num_samples: responses to a prompt, at least 2. Typical: 8 to 64.
        temperature: of the samples, and of all log-probabilities that the loss meets.
        clip_low: how far below 1 the ratio of a response still counts, in [0, 1].
        clip_high: how far above 1, at least 0.
        scale: divide advantages by the standard deviation within the prompt.
        eps: added to the standard deviation, at least 0.
        epochs: passes over what was drawn.
        refresh: updates between two drawings. 4 in the paper.
    """

    num_samples: int = 8
    temperature: float = setting(1.0, at_least=0)
    clip_low: Scalar = setting(3e-4, at_least=0, at_most=1)
    clip_high: Scalar = setting(4e-4, at_least=0)
    scale: bool = True
    eps: Scalar = setting(1e-4, at_least=0)
    epochs: int = setting(1, at_least=1)
    refresh: int = setting(4, at_least=1)

    def __post_init__(self) -> None:
        require_samples(self.num_samples, 2, "A sample is compared with the others.")

    def needs(self) -> Needs:
        """Prompts, a reward and several samples a prompt."""
        return Needs(
            record=Prompt,
            reward=True,
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
        """The mean over responses. 0 where the policies agree."""
        assert batch.old_logprobs is not None, "whoever samples keeps them"
        advantages = group_advantage(rewards_of(batch), batch.valid, scale=self.scale, eps=self.eps)
        clips = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        losses = sequence_clipped_policy_gradient(
            outputs.logprobs, batch.old_logprobs, advantages, batch.mask, **clips
        )
        log_ratio = masked_mean(outputs.logprobs - constant(batch.old_logprobs), batch.mask)
        metrics = reward_metrics(batch)
        metrics |= clip_metrics(log_ratio, advantages, batch.valid, **clips)
        return masked_mean(masked_mean(losses, batch.mask), batch.valid), metrics
