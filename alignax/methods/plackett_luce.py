"""Plackett-Luce: the likelihood of a whole ranking, for reward models.

Plackett 1975; of reward models, the list-wise form of arXiv:2203.02155's pairs.
"""

import dataclasses

from jaxtyping import Array, Bool, Float, Real

from alignax.core.lists import best_first, list_metrics
from alignax.core.masked import masked_sum
from alignax.core.method import Method, Needs
from alignax.core.pairs import log_ratios
from alignax.core.ranking import gaps, only_valid, ranking_nll
from alignax.core.records import Group, Ranking, Record
from alignax.core.setting_types import setting
from alignax.core.shapes import require_alike
from alignax.core.types import Batch, Metrics, Outputs, Scalar


def plackett_luce(
    rewards: Float[Array, "*b k"],
    scores: Real[Array, "*b k"],
    valid: Bool[Array, "*b k"] | None = None,
) -> Float[Array, "*b"]:
    """-sum_i log(exp(rewards_i) / (exp(rewards_i) + sum_j exp(rewards_j))), over j scored below i.

    The best response is picked from all, the second from the rest, and so on.

    Args:
        rewards: the reward model's of each of the k responses to a prompt. In any order.
        scores: of each response by people, higher is better. Only their order counts; ties are
            not compared, and a response with none below it adds nothing. A constant.
        valid: False for responses that only fill the array. All are valid where it is not given.

    Returns:
        One loss a prompt, in nats, float32. log k! where all rewards are equal and no scores are.
    """
    require_alike("plackett_luce", 1, rewards=rewards, scores=scores, valid=valid)
    rewards = only_valid(rewards, valid)
    return ranking_nll(rewards[..., None, :] - rewards[..., :, None], gaps(scores, valid) > 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlackettLuceDPO(Method):
    """DPO on ranked lists of any length (Rafailov et al. 2023, arXiv:2305.18290, appendix A.3).

    For lists of two it is DPO.

    Fields:
        beta: how strongly the policy is held to the reference, above 0.
    """

    beta: Scalar = setting(0.1, above=0)

    def needs(self) -> Needs:
        """Ranked lists and the reference's log-probabilities."""
        return Needs(record=Ranking, reference=True)

    def group(self, record: Record) -> Group:
        """Best first. A list of equal scores is left out."""
        return best_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The likelihood of each ranking; rewards are beta times log-ratios."""
        rewards = self.beta * log_ratios(outputs, batch)
        loss = plackett_luce(rewards, batch.scores, batch.valid)
        summed = masked_sum(outputs.logprobs, batch.mask)
        return loss, list_metrics(summed, rewards, batch.scores, batch.valid)
