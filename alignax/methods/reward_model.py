"""Reward models of pairs, after Bradley and Terry 1952."""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from alignax.core.constant import constant
from alignax.core.method import Method, Needs
from alignax.core.pairs import chosen_first
from alignax.core.records import Group, Lacking, Preference, Record
from alignax.core.setting_types import setting
from alignax.core.shapes import require_alike, require_pairs
from alignax.core.types import Batch, Metrics, Number, Outputs, Scalar


def bradley_terry(
    rewards: Float[Array, "*b 2"],
    margin: Number | Real[Array, "*b"] = 0.0,
    *,
    centre: Number = 0.0,
) -> Float[Array, "*b"]:
    """-log sigmoid(rewards[..., 0] - rewards[..., 1] - margin) + centre (sum of rewards)^2.

    With a margin it is Llama 2's, Touvron et al. 2023, arXiv:2307.09288. Differences alone leave
    the mean reward open; `centre` holds it at 0.

    Args:
        rewards: the reward model's of each response. The chosen response comes first.
        margin: by how much the chosen reward should win, one a pair or one for all. A constant.
            Typical: 0, or 1, 2/3, 1/3, 0 by how clear the preference is.
        centre: weight of the squared sum. Typical: 0 or 0.01.

    Returns:
        One loss a pair, in nats, float32. log 2 where both rewards and the margin are 0.
    """
    require_pairs("bradley_terry", rewards=rewards)
    require_alike("bradley_terry", pairs=rewards[..., 0], margin=margin)
    rewards = rewards.astype(jnp.float32)
    nll = -jax.nn.log_sigmoid(rewards[..., 0] - rewards[..., 1] - constant(margin))
    return nll + constant(centre) * jnp.sum(rewards, axis=-1) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModel(Method):
    """A reward model of preference pairs (Ouyang et al. 2022, arXiv:2203.02155, equation 1).

    The language model's vocabulary head gives way to a `score` head, read at the last token of a
    response.

    Fields:
        centre: weight of the squared sum of a pair's rewards, which holds their mean at 0; at
            least 0.
        margins: ask the chosen reward to win by the pair's margin, as Llama 2 does. Every pair
            must have one.
    """

    centre: Scalar = setting(0.01, at_least=0)
    margins: bool = False

    def needs(self) -> Needs:
        """Preference pairs and a reward head."""
        return Needs(record=Preference, head="reward")

    def group(self, record: Record) -> Group:
        """Chosen first; with `margins`, its score is the margin, and the rejected one's 0."""
        pair = cast(Preference, record)
        if not self.margins:
            return chosen_first(pair)
        if pair.margin is None:
            raise Lacking(
                "pair without a margin",
                "pairs with a margin",
                "no margin, or null",
                "Give a column margin, or score_chosen and score_rejected; or leave "
                "method.margins out.",
                where=pair.origin or None,
            )
        return dataclasses.replace(chosen_first(pair), scores=(pair.margin, 0.0))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Bradley and Terry's loss of each pair."""
        assert outputs.rewards is not None, "the model is built from needs().head"
        rewards = outputs.rewards
        margin = batch.scores[:, 0] - batch.scores[:, 1] if self.margins else 0.0
        loss = bradley_terry(rewards, margin, centre=self.centre)
        chosen, rejected = jax.lax.stop_gradient((rewards[:, 0], rewards[:, 1]))
        return loss, {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).astype(jnp.float32),
        }
