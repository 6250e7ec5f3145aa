"""DAPO: GRPO with unequal clips, a loss by the token, and only prompts that teach something.

Yu et al. 2025, arXiv:2503.14476.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from alignax.core.advantages import group_advantage, overlong_penalty
from alignax.core.errors import BadInput
from alignax.core.masked import masked_mean
from alignax.core.method import Method, Needs, Sampling
from alignax.core.policy_gradient import clipped_policy_gradient
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import (
    prompt_alone,
    require_samples,
    reward_metrics,
    rewards_differ,
    rewards_of,
    sum_over_tokens,
    token_clip_metrics,
)
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class DAPO(Method):
    """DAPO: every token of the step counts alike, and no prompt whose rewards are all equal.

    Such a prompt has advantage 0; another is drawn in its place, so that a step is full of
    prompts that teach. There is no KL and no reference.

    Fields:
        num_samples: responses to a prompt, at least 2. Typical: 16.
        temperature: of the samples, and of all log-probabilities that the loss meets.
        clip_low: how far below 1 the policies' ratio of a token still counts, in [0, 1].
        clip_high: how far above 1, at least 0; more than below, so that rare tokens can become
            frequent.
        scale: divide advantages by the standard deviation within the prompt.
        eps: added to the standard deviation, at least 0.
        max_length: of a response, in tokens, for the penalty of long ones: beyond it 1 is taken
            from the reward, and nothing from the metric of that name. None for no penalty.
        buffer: over how many tokens before max_length the penalty grows from 0 to 1; in
            [0, max_length].
        epochs: passes over what was drawn.
        refresh: updates between two drawings. 16 in the paper.
    """

    num_samples: int = 8
    temperature: float = setting(1.0, at_least=0)
    clip_low: Scalar = setting(0.2, at_least=0, at_most=1)
    clip_high: Scalar = setting(0.28, at_least=0)
    scale: bool = True
    eps: Scalar = setting(1e-4, at_least=0)
    max_length: int | None = setting(None, at_least=1)
    buffer: int = setting(0, at_least=0)
    epochs: int = setting(1, at_least=1)
    refresh: int = setting(4, at_least=1)

    def __post_init__(self) -> None:
        require_samples(self.num_samples, 2, "A sample is compared with the others.")
        if self.max_length is not None and self.buffer > self.max_length:
            raise BadInput(
                f"a number of tokens up to method.max_length, {self.max_length}",
                repr(self.buffer),
                "Lower it, or raise method.max_length.",
                where="method.buffer",
            )

    def needs(self) -> Needs:
        """Prompts, a reward, and as many drawings as fill a step."""
        return Needs(
            record=Prompt,
            reward=True,
            sampling=Sampling(
                num_samples=self.num_samples,
                temperature=self.temperature,
                epochs=self.epochs,
                refresh=self.refresh,
                fill=True,
            ),
            tempered=True,
            mean_over="tokens",
        )

    def group(self, record: Record) -> Group:
        """The prompt."""
        return prompt_alone(record)

    def select(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """Drops prompts whose rewards are all equal, and then takes the penalty of length off."""
        del key
        valid = batch.valid & rewards_differ(batch)[:, None]
        scores = batch.scores
        if self.max_length is not None:
            scores = scores + self._penalty(batch)
        return batch._replace(scores=scores, valid=valid)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Sums over the tokens of all responses to a prompt.

        In the metrics `reward` is what was given, to rounding, as in other methods, and what
        length adds to it is `rewards/overlong_penalty`, in [-1, 0].
        """
        assert batch.old_logprobs is not None, "whoever samples keeps them"
        advantages = group_advantage(rewards_of(batch), batch.valid, scale=self.scale, eps=self.eps)
        clips = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        losses = clipped_policy_gradient(
            outputs.logprobs, batch.old_logprobs, advantages, batch.mask, **clips
        )
        given, penalty = batch, {}
        if self.max_length is not None:
            added = self._penalty(batch)
            given = batch._replace(scores=batch.scores - added)
            penalty["rewards/overlong_penalty"] = masked_mean(added, batch.valid)
        metrics = reward_metrics(given) | penalty
        metrics |= token_clip_metrics(outputs.logprobs, advantages, batch, **clips)
        return sum_over_tokens(losses, batch), metrics

    def _penalty(self, batch: Batch) -> Float[Array, "b k"]:
        """What length adds to the reward of each response."""
        assert self.max_length is not None, "asked for where there is one"
        lengths = jnp.sum(batch.mask, axis=-1)
        return overlong_penalty(lengths, max_length=self.max_length, buffer=self.buffer)
