"""Reward-weighted regression: imitate every response, the better ones more.

Peters and Schaal 2007; of language models, Hu et al. 2023, arXiv:2308.12050. The policy it leads
to is the one that made the data times exp(score / beta).
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from alignax.core.constant import constant
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs, over_step
from alignax.core.records import Group, Record, Scored
from alignax.core.scores import mean_and_deviation
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Means, Metrics, Number, Outputs, Scalar


def reward_weights(
    scores: Real[Array, "*s b"], *, beta: Number, max_weight: Number, normalise: bool = True
) -> Float[Array, "*s b"]:
    """min(exp(scores / beta), max_weight), divided by its mean where `normalise`.

    Args:
        scores: of the responses of a batch; best first brought to mean 0 and deviation 1.
        beta: the temperature, above 0. Towards 0 only the best response counts, towards infinity
            all count alike. Typical: 1.
        max_weight: the clip, above 0; it comes before the mean. Typical: 20; infinity for none.
        normalise: divide by the mean over the batch, so that the mean weight is 1.

    Returns:
        One weight a response, at least 0, float32; a constant, for its negative log-likelihood
        (`nll`). 1 where all scores are 0.
    """
    if not normalise:
        return jnp.minimum(jnp.exp(constant(scores) / constant(beta)), constant(max_weight))
    # By softmax, so that scores far from 0 leave neither 0 / 0 nor infinity / infinity.
    return scores.shape[-1] * jax.nn.softmax(_log_weights(scores, beta, max_weight), axis=-1)


def _log_weights(
    scores: Real[Array, "*s b"], beta: Number, max_weight: Number
) -> Float[Array, "*s b"]:
    return jnp.minimum(constant(scores) / constant(beta), jnp.log(constant(max_weight)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardWeighted(Method):
    """Reward-weighted regression on scored responses.

    Scores are brought to mean 0 and deviation 1 over the training data, and weights to mean 1
    over the optimiser step.

    Fields:
        beta: the temperature, in deviations of the scores, above 0.
        max_weight: no response weighs more than this before weights are normalised; above 0,
            infinity for no clip.
        mean: of the scores of the training data; None until it is known.
        deviation: of the scores of the training data; None until it is known.
    """

    beta: Scalar = setting(1.0, above=0)
    max_weight: Scalar = setting(20.0, above=0, infinite=True)
    mean: float | None = None
    deviation: float | None = setting(None, at_least=0)

    def needs(self) -> Needs:
        """Scored responses, and no reference."""
        return Needs(record=Scored)

    def fit(self, records: Sequence[Record]) -> "RewardWeighted":
        """Takes mean and deviation from the data, each where it is not given."""
        if self.mean is not None and self.deviation is not None:
            return self
        mean, deviation = mean_and_deviation(cast(Scored, x).score for x in records)
        return dataclasses.replace(
            self,
            mean=mean if self.mean is None else self.mean,
            deviation=deviation if self.deviation is None else self.deviation,
        )

    def group(self, record: Record) -> Group:
        """The one response, with its score in deviations from the mean."""
        scored = cast(Scored, record)
        score = (scored.score - (self.mean or 0.0)) / (self.deviation or 1.0)
        return Group(
            prompt=scored.prompt,
            responses=(scored.response,),
            scores=(score,),
            origin=scored.origin,
        )

    def means(self, outputs: Outputs, batch: Batch) -> Metrics:
        """The logarithm of each response's weight before it is normalised."""
        del outputs
        return {"log_weight": _log_weights(batch.scores[:, 0], self.beta, self.max_weight)}

    def pool(self, values: Metrics, present: Bool[Array, " b"]) -> Means:
        """The logarithm of the mean weight, which may be smaller than any number above 0."""
        logs = jnp.where(present, values["log_weight"], -jnp.inf)
        total = jax.nn.logsumexp(logs) - jnp.log(jnp.sum(present, dtype=jnp.float32))
        return {"log_weight": jnp.where(jnp.any(present), total, 0.0)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Each response's negative log-likelihood, summed over its tokens, times its weight."""
        own, pooled = self.means(outputs, batch), over_step(self, outputs, batch)
        weight = jnp.exp(own["log_weight"] - pooled["log_weight"])
        logps = masked_sum(outputs.logprobs, batch.mask)[:, 0]
        token = masked_mean(outputs.logprobs, batch.mask)[:, 0]
        return -weight * logps, {
            "weight": weight,
            "logps/mean_token": token,
            "logps/weighted": weight * token,
        }
