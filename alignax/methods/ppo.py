"""PPO: the clipped policy gradient with a critic, the long way that the others shorten.

Schulman et al. 2017, arXiv:1707.06347; for language models Ouyang et al. 2022, arXiv:2203.02155.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.advantages import generalised_advantage
from alignax.core.masked import masked_mean
from alignax.core.method import Method, Needs, Sampling, over_step
from alignax.core.policy_gradient import clipped_policy_gradient, clipped_value
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import (
    mean_over_tokens,
    prompt_alone,
    reward_metrics,
    rewards_of,
    sum_over_tokens,
    token_clip_metrics,
)
from alignax.core.shaping import is_zero, reward_at_end, sampled_divergence, sampled_log_ratios
from alignax.core.types import Batch, Means, Metrics, Outputs, Scalar

VARIANCE_EPS = 1e-8


def whiten(
    advantages: Float[Array, "*b"],
    mean: Float[Array, ""],
    square: Float[Array, ""],
) -> Float[Array, "*b"]:
    """(advantages - mean) / sqrt(variance + 1e-8), the variance being square - mean^2.

    Args:
        advantages: in units of reward.
        mean: of the advantages, over whatever they are brought to one scale over.
        square: the mean of their squares.

    Returns:
        As many numbers, in standard deviations; 0 where all are the same.
    """
    variance = jnp.maximum(square - mean**2, 0.0)
    return (advantages - mean) * jax.lax.rsqrt(variance + VARIANCE_EPS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(Method):
    """PPO with a value head, its KL in the reward of each token.

    A token's reward is -beta times its log-ratio to the reference, and at the last token the
    response's reward too. Advantages are generalised ones, brought to mean 0 and deviation 1 over
    all tokens of the optimiser step. What they are made of is fixed when responses are sampled.

    Fields:
        num_samples: responses to a prompt.
        temperature: of the samples.
        beta: what a nat of log-ratio costs, in units of reward. With 0 there is no reference.
        discount: of a reward one token later, in [0, 1].
        decay: lambda, in [0, 1]: 0 trusts the values, 1 the rewards.
        clip: of the policies' ratio of a token to 1.
        dual_clip: where the advantage is negative the loss is at most -dual_clip times it; above
            1, typically 3. None for no such bound.
        value_clip: how far from its old value a value is led at once, in units of reward.
        value_weight: of the loss of the values.
        entropy_weight: of the entropy of the next token, which is to be high. With 0 the entropy
            is not computed.
        epochs: passes over what was drawn.
        refresh: updates between two drawings. As many as `epochs` draws one step's prompts.
    """

    num_samples: int = 1
    temperature: float = 1.0
    beta: Scalar = 0.05
    discount: Scalar = 1.0
    decay: Scalar = 0.95
    clip: Scalar = 0.2
    dual_clip: float | None = None
    value_clip: Scalar = 0.2
    value_weight: Scalar = 0.1
    entropy_weight: Scalar = 0.0
    epochs: int = 4
    refresh: int = 4

    def needs(self) -> Needs:
        """Prompts, a reward, a value head, and with beta the reference."""
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
            head="value",
            outputs=frozenset() if is_zero(self.entropy_weight) else frozenset({"entropy"}),
            mean_over="tokens",
        )

    def group(self, record: Record) -> Group:
        """The prompt."""
        return prompt_alone(record)

    def means(self, outputs: Outputs, batch: Batch) -> Metrics:
        """Each prompt's tokens, and the sums of their advantages and squares."""
        del outputs
        advantages, _ = self._advantages(batch)
        return {
            "tokens": sum_over_tokens(jnp.ones_like(advantages), batch),
            "advantages": sum_over_tokens(advantages, batch),
            "squares": sum_over_tokens(advantages**2, batch),
        }

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Sums over the tokens of a prompt: of the policy, the values, and the entropy."""
        assert batch.old_logprobs is not None, "whoever samples keeps them"
        assert batch.old_values is not None, "whoever samples keeps them"
        assert outputs.values is not None, "the step checks needs().head"
        advantages, returns = self._advantages(batch)
        whitened = _whitened(advantages, over_step(self.means(outputs, batch), batch))
        clips = {"clip_low": self.clip, "clip_high": self.clip}
        policy = clipped_policy_gradient(
            outputs.logprobs,
            batch.old_logprobs,
            whitened,
            batch.mask,
            dual_clip=self.dual_clip,
            **clips,
        )
        value = clipped_value(
            outputs.values, batch.old_values, returns, batch.mask, clip=self.value_clip
        )
        losses = policy + self.value_weight * value
        metrics = reward_metrics(batch)
        metrics |= token_clip_metrics(outputs.logprobs, whitened, batch, **clips)
        metrics |= {
            "advantages": mean_over_tokens(advantages, batch),
            "returns": mean_over_tokens(returns, batch),
            "loss/policy": mean_over_tokens(policy, batch),
            "loss/value": mean_over_tokens(value, batch),
        }
        if not is_zero(self.beta):
            metrics["kl"] = masked_mean(sampled_divergence(batch), batch.valid)
        if not is_zero(self.entropy_weight):
            assert outputs.entropy is not None, "the step checks needs().outputs"
            entropy = jnp.where(batch.mask, outputs.entropy, 0.0)
            losses = losses - self.entropy_weight * entropy
            metrics["entropy"] = mean_over_tokens(entropy, batch)
        return sum_over_tokens(losses, batch), metrics

    def _advantages(self, batch: Batch) -> tuple[Float[Array, "b k r"], Float[Array, "b k r"]]:
        """Advantages before they are whitened, and returns."""
        assert batch.old_values is not None, "whoever samples keeps them"
        rewards = reward_at_end(rewards_of(batch), batch.mask)
        if not is_zero(self.beta):
            rewards = rewards - self.beta * sampled_log_ratios(batch)
        return generalised_advantage(
            rewards, batch.old_values, batch.mask, discount=self.discount, decay=self.decay
        )


def _whitened(advantages: Float[Array, "b k r"], means: Means) -> Float[Array, "b k r"]:
    """By the moments over tokens: those over prompts, divided by the tokens of a prompt."""
    tokens = jnp.maximum(means["tokens"], jnp.finfo(jnp.float32).tiny)
    return whiten(advantages, means["advantages"] / tokens, means["squares"] / tokens)
