"""Preference ranking optimisation: each response against all that are ranked below it.

Song et al. 2023, arXiv:2306.17492.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from alignax.core.lists import best, best_first, list_metrics
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs
from alignax.core.ranking import gaps, only_valid, ranking_nll
from alignax.core.records import Group, Ranking, Record
from alignax.core.scores import mean_and_deviation
from alignax.core.setting_types import setting
from alignax.core.shapes import require_alike
from alignax.core.types import Batch, Metrics, Outputs, Scalar


def pro(
    logprobs: Float[Array, "*b k"],
    scores: Real[Array, "*b k"],
    valid: Bool[Array, "*b k"] | None = None,
    *,
    temperature: bool = True,
) -> Float[Array, "*b"]:
    """-sum_i log(exp(A_i D_i) / (exp(A_i D_i) + sum_j exp(A_j D_ij))), over j scored below i.

    A = logprobs, D_ij = scores_i - scores_j, and D_i is the largest D_ij; without `temperature`
    all D are 1. This is the ranking term. The paper adds a multiple of the negative log-likelihood
    of the best response (`nll`).

    Args:
        logprobs: log-probability of each of the k responses to a prompt under the policy, in
            nats, averaged over its tokens. In any order.
        scores: of each response, higher is better; ties are not compared, and a response with
            none below it adds nothing. With `temperature` their scale is the strength of the
            loss. A constant.
        valid: False for responses that only fill the array. All are valid where it is not given.
        temperature: weigh log-probabilities by the differences of scores, as in the paper.

    Returns:
        One loss a prompt, in nats, float32. For two responses -log sigmoid(D (A_1 - A_2)), D being
        the difference of their scores, or 1.
    """
    require_alike("pro", 1, logprobs=logprobs, scores=scores, valid=valid)
    logprobs, gap = only_valid(logprobs, valid), gaps(scores, valid)
    compared = gap > 0.0
    weight = gap if temperature else compared.astype(jnp.float32)
    # The largest D_ij. It is 0 where i has none below it, and i then adds nothing.
    own = logprobs * jnp.max(weight, axis=-1, initial=0.0)
    return ranking_nll(logprobs[..., None, :] * weight - own[..., :, None], compared)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PRO(Method):
    """PRO on ranked lists: the ranking term, and likelihood of the best response.

    Fields:
        temperature: weigh log-probabilities by the differences of scores, as in the paper. Their
            scale is then the strength of the loss.
        sft_weight: of the best response's negative log-likelihood, summed over its tokens and
            times (n - 1)^2 for a list of n; at least 0, 0.05 in the authors' scripts.
        normalise: divide scores by their deviation over the training data, so that a reward model's
            scale is not the strength of the loss.
        deviation: of the scores of the training data; None until it is known, or not asked for.
    """

    temperature: bool = True
    sft_weight: Scalar = setting(0.05, at_least=0)
    normalise: bool = False
    deviation: float | None = setting(None, at_least=0)

    def needs(self) -> Needs:
        """Ranked lists, and no reference."""
        return Needs(record=Ranking)

    def fits(self) -> bool:
        """Where the deviation is asked for and not given."""
        return self.normalise and self.deviation is None

    def fit(self, records: Sequence[Record]) -> "PRO":
        """Takes the deviation from the data, where it is asked for and not given."""
        if not self.fits():
            return self
        scores = itertools.chain.from_iterable(cast(Ranking, x).scores for x in records)
        return dataclasses.replace(self, deviation=mean_and_deviation(scores)[1])

    def group(self, record: Record) -> Group:
        """Best first. A list of equal scores is left out."""
        group = best_first(record)
        scores = tuple(x / (self.deviation or 1.0) for x in group.scores)
        return dataclasses.replace(group, scores=scores)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Ranking and likelihood; rewards are log-probabilities a token."""
        summed = masked_sum(outputs.logprobs, batch.mask)
        rewards = masked_mean(outputs.logprobs, batch.mask)
        nll = -best(summed, batch.scores, batch.valid)
        others = jnp.maximum(jnp.sum(batch.valid, axis=-1, dtype=jnp.float32) - 1.0, 0.0)
        loss = pro(rewards, batch.scores, batch.valid, temperature=self.temperature)
        metrics = list_metrics(summed, rewards, batch.scores, batch.valid)
        return loss + self.sft_weight * others**2 * nll, {**metrics, "nll_loss": nll}
