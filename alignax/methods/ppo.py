"""PPO: the clipped policy gradient with a critic, the long way that the others shorten.

Schulman et al. 2017, arXiv:1707.06347; for language models Ouyang et al. 2022, arXiv:2203.02155.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
from alignax.core.setting_types import setting
from alignax.core.shaping import is_zero, reward_at_end, sampled_divergence, sampled_log_ratios
from alignax.core.types import Batch, Means, Metrics, Outputs, Scalar

VARIANCE_EPS = 1e-8


def whiten(
    advantages: Float[Array, "*b"],
    mean: Float[Array, ""],
    variance: Float[Array, ""],
) -> Float[Array, "*b"]:
    """(advantages - mean) / sqrt(variance + 1e-8).

    Args:
        advantages: in units of reward.
        mean: of the advantages, over whatever they are brought to one scale over.
        variance: their mean squared distance from it.

    Returns:
        As many numbers, in standard deviations; 0 where all are the same.
    """
    return (advantages - mean) * jax.lax.rsqrt(variance + VARIANCE_EPS)


def weighted_mean(x: Float[Array, "*b n"], weights: Float[Array, "*b n"]) -> Float[Array, "*b"]:
    """Mean over the last axis. What weighs 0 may be any number; where all does, the mean is 0.

    Counted from the highest, so that of equal numbers it is that number, unrounded.
    """
    there = weights > 0.0
    highest = jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf, where=there)
    highest = jnp.where(jnp.any(there, axis=-1, keepdims=True), highest, 0.0)
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    rest = jnp.where(there, x - highest, 0.0) * (weights / total)
    return highest[..., 0] + jnp.sum(rest, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(Method):
    """PPO with a value head, its KL in the reward of each token.

    A token's reward is -beta times its log-ratio to the reference, and at the last token the
    response's reward too. Advantages are generalised ones, brought to mean 0 and deviation 1 over
    all tokens of the optimiser step. What they are made of is fixed when responses are sampled.

    Fields:
        num_samples: responses to a prompt.
        temperature: of the samples, and of all log-probabilities that the loss meets.
        beta: what a nat of log-ratio costs, in units of reward, at least 0. With 0 there is no
            reference.
        discount: of a reward one token later, in [0, 1].
        decay: lambda, in [0, 1]: 0 trusts the values, 1 the rewards.
        clip: of the policies' ratio of a token to 1, at least 0.
        dual_clip: where the advantage is negative the loss is at most -dual_clip times it; above
            1, typically 3. None for no such bound.
        value_clip: how far from its old value a value is led at once, in units of reward, above 0.
        value_weight: of the loss of the values, at least 0.
        entropy_weight: of the entropy of the next token, which is to be high. With 0 the entropy
            is not computed.
        epochs: passes over what was drawn.
        refresh: updates between two drawings. As many as `epochs` draws one step's prompts.
    """

    num_samples: int = setting(1, at_least=1)
    temperature: float = setting(1.0, at_least=0)
    beta: Scalar = setting(0.05, at_least=0)
    discount: Scalar = setting(1.0, at_least=0, at_most=1)
    decay: Scalar = setting(0.95, at_least=0, at_most=1)
    clip: Scalar = setting(0.2, at_least=0)
    dual_clip: float | None = setting(None, above=1)
    value_clip: Scalar = setting(0.2, above=0)
    value_weight: Scalar = setting(0.1, at_least=0)
    entropy_weight: Scalar = 0.0
    epochs: int = setting(4, at_least=1)
    refresh: int = setting(4, at_least=1)

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
            tempered=True,
            head="value",
            outputs=frozenset() if is_zero(self.entropy_weight) else frozenset({"entropy"}),
            mean_over="tokens",
        )

    def group(self, record: Record) -> Group:
        """The prompt."""
        return prompt_alone(record)

    def means(self, outputs: Outputs, batch: Batch) -> Metrics:
        """How many tokens each prompt has, and the mean and the variance of their advantages."""
        del outputs
        advantages, _ = self._advantages(batch)
        advantages = advantages.reshape(len(advantages), -1)
        there = (batch.mask & batch.valid[..., None]).reshape(advantages.shape).astype(jnp.float32)
        mean = weighted_mean(advantages, there)
        variance = weighted_mean((advantages - mean[:, None]) ** 2, there)
        return {"tokens": jnp.sum(there, axis=-1), "mean": mean, "variance": variance}

    def pool(self, values: Metrics, present: Bool[Array, " b"]) -> Means:
        """Mean and variance over all tokens, from those of each prompt.

        Within prompts and between them, each a square of what has been centred: the mean of
        squares less the square of the mean would lose a small deviation beside a large mean.
        """
        del present  # a prompt that is not there has no tokens
        mean = weighted_mean(values["mean"], values["tokens"])
        apart = values["variance"] + (values["mean"] - mean) ** 2
        return {"mean": mean, "variance": weighted_mean(apart, values["tokens"])}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Sums over the tokens of a prompt: of the policy, the values, and the entropy."""
        assert batch.old_logprobs is not None, "whoever samples keeps them"
        assert batch.old_values is not None, "whoever samples keeps them"
        assert outputs.values is not None, "the step checks needs().head"
        advantages, returns = self._advantages(batch)
        whitened = whiten(advantages, **over_step(self, outputs, batch))
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
            assert outputs.entropy is not None, "the model is asked for needs().outputs"
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
