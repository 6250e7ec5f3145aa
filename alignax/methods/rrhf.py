"""RRHF: rank responses by their log-probability as a reward ranks them.

Yuan et al. 2023, arXiv:2304.05302.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from alignax.core.lists import best, best_first, list_metrics
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import LOSS_ALONE, Method, Needs
from alignax.core.ranking import gaps, only_valid
from alignax.core.records import Group, Ranking, Record
from alignax.core.setting_types import setting
from alignax.core.shapes import require_alike
from alignax.core.types import Batch, Metrics, Outputs, Scalar


def rrhf(
    logprobs: Float[Array, "*b k"],
    scores: Real[Array, "*b k"],
    valid: Bool[Array, "*b k"] | None = None,
) -> Float[Array, "*b"]:
    """sum over pairs with scores_i > scores_j of max(0, logprobs_j - logprobs_i).

    The ranking term. The paper adds the negative log-likelihood of the best response (`nll`).

    Args:
        logprobs: log-probability of each of the k responses to a prompt under the policy, in
            nats, averaged over its tokens. In any order.
        scores: of each response, higher is better. Only their order counts; ties are not
            compared. A constant.
        valid: False for responses that only fill the array. All are valid where it is not given.

    Returns:
        One loss a prompt, in nats a token, float32. 0 where the log-probabilities are ordered as
        the scores are.
    """
    require_alike("rrhf", 1, logprobs=logprobs, scores=scores, valid=valid)
    logprobs = only_valid(logprobs, valid)
    wrong = jax.nn.relu(logprobs[..., None, :] - logprobs[..., :, None])
    return jnp.sum(jnp.where(gaps(scores, valid) > 0.0, wrong, 0.0), axis=(-2, -1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RRHF(Method):
    """RRHF on ranked lists: the ranking term, and likelihood of the best response.

    Fields:
        sft_weight: of the best response's negative log-likelihood, summed over its tokens; at
            least 0, 1 in the paper.
        padded_width: divide log-probabilities, and the likelihood of the best response, by the
            length of the longest prompt and response of the list, as the authors' code does, and
            not by each response's own length, as the paper does.
        average_nll: take the mean of that negative log-likelihood over the response's tokens, and
            not the sum, which long answers rule.
    """

    sft_weight: Scalar = setting(1.0, at_least=0)
    padded_width: bool = False
    average_nll: bool = dataclasses.field(default=False, metadata=LOSS_ALONE)

    def needs(self) -> Needs:
        """Ranked lists, and no reference."""
        return Needs(record=Ranking)

    def group(self, record: Record) -> Group:
        """Best first. A list of equal scores is left out."""
        return best_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Ranking and likelihood; rewards are log-probabilities a token."""
        summed = masked_sum(outputs.logprobs, batch.mask)
        rewards, likelihood = masked_mean(outputs.logprobs, batch.mask), summed
        if self.padded_width:
            place = jnp.arange(1, batch.mask.shape[-1] + 1)
            longest = jnp.max(jnp.where(batch.mask, place, 0), axis=(1, 2))
            width = jnp.maximum(batch.prompt_lengths + longest, 1)[:, None].astype(jnp.float32)
            rewards, likelihood = summed / width, summed / width
        elif self.average_nll:
            likelihood = rewards
        nll = -best(likelihood, batch.scores, batch.valid)
        loss = rrhf(rewards, batch.scores, batch.valid) + self.sft_weight * nll
        metrics = list_metrics(summed, rewards, batch.scores, batch.valid)
        return loss, {**metrics, "nll_loss": nll}
