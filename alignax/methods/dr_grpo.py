"""Dr. GRPO: GRPO without the two divisions that make its gradient another than the reward's.

Liu et al. 2025, arXiv:2503.20783.
"""

import dataclasses

from jaxtyping import Array, Float

from alignax.core.advantages import group_advantage
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs, Sampling
from alignax.core.policy_gradient import clipped_policy_gradient
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import (
    prompt_alone,
    require_samples,
    reward_metrics,
    rewards_of,
    token_clip_metrics,
)
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrGRPO(Method):
    """Dr. GRPO: advantage reward - mean, and one length for all responses to divide by.

    Of k samples its gradient is (k - 1) / (k max_length) times that of the expected reward, while
    samples are the policy's own. There is no KL and no reference.

    Fields:
        num_samples: responses to a prompt, at least 2. Typical: 8.
        temperature: of the samples, and of all log-probabilities that the loss meets.
        clip: of the policies' ratio of a token to 1, at least 0.
        max_length: what a response's sum over tokens is divided by, in tokens: the longest that
            may be sampled. A constant factor of the loss. It does not follow
            `rollout.max_new_tokens`; a run says where the two differ.
        epochs: passes over what was drawn.
        refresh: updates between two drawings. With 1 the ratio is 1 and nothing is clipped.
    """

    num_samples: int = 8
    temperature: float = setting(1.0, at_least=0)
    clip: Scalar = setting(0.2, at_least=0)
    max_length: int = setting(512, at_least=1)
    epochs: int = setting(1, at_least=1)
    refresh: int = setting(1, at_least=1)

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
                longest=self.max_length,
            ),
            tempered=True,
        )

    def group(self, record: Record) -> Group:
        """The prompt."""
        return prompt_alone(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Sums over tokens by max_length, averaged over responses."""
        assert batch.old_logprobs is not None, "whoever samples keeps them"
        advantages = group_advantage(rewards_of(batch), batch.valid, scale=False)
        clips = {"clip_low": self.clip, "clip_high": self.clip}
        losses = clipped_policy_gradient(
            outputs.logprobs, batch.old_logprobs, advantages, batch.mask, **clips
        )
        metrics = reward_metrics(batch)
        metrics |= token_clip_metrics(outputs.logprobs, advantages, batch, **clips)
        return masked_mean(masked_sum(losses, batch.mask), batch.valid) / self.max_length, metrics
