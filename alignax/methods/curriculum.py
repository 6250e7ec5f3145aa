"""Contrastive post-training: pairs of answers by a stronger and a weaker model, easy ones first.

Xu et al. 2023, arXiv:2310.02263. Nobody labels anything: the stronger model's answer is chosen.
The larger the gap between the two, the easier the pair; the share of hard pairs grows with the
step.
"""

import dataclasses
from typing import cast

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.masked import masked_sum
from alignax.core.method import Method, Needs
from alignax.core.pairs import chosen_first, log_ratios, pair_metrics
from alignax.core.records import Group, Lacking, Preference, Record
from alignax.core.schedule import Schedule
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs, Scalar
from alignax.methods.dpo import dpo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum(Method):
    """DPO on pairs of known gap, in an order from easy to hard.

    The gap of a pair is its margin. Lists whose responses name their sources become such pairs
    with data.pairing="strength" and data.strength, the sources from the weakest to the strongest.

    Fields:
        beta: how strongly the policy is held to the reference, above 0.
        start: the share of hard pairs in the first step, in [0, 1].
        end: the share of hard pairs in the last step, in [0, 1].
        hard_gap: pairs with at most this gap are hard; None for about half of them.
    """

    beta: Scalar = setting(0.1, above=0)
    start: float = setting(0.0, at_least=0, at_most=1)
    end: float = setting(1.0, at_least=0, at_most=1)
    hard_gap: float | None = None

    def needs(self) -> Needs:
        """Preference pairs, the reference's log-probabilities, and an order."""
        schedule = Schedule(start=self.start, end=self.end, hard_gap=self.hard_gap)
        return Needs(record=Preference, reference=True, schedule=schedule)

    def group(self, record: Record) -> Group:
        """Chosen first; its score is the gap, and the rejected one's 0."""
        pair = cast(Preference, record)
        if pair.margin is None:
            raise Lacking(
                "pair without a margin",
                "pairs with a margin, which says how easy each is",
                "no margin, or null",
                "Give a column margin, or score_chosen and score_rejected; or lists with the "
                'column sources and data.pairing="strength".',
                where=pair.origin or None,
            )
        return dataclasses.replace(chosen_first(pair), scores=(pair.margin, 0.0))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """DPO's loss of each pair; `gap` shows where in the curriculum a step is."""
        ratio = log_ratios(outputs, batch)
        loss = dpo(ratio, jnp.zeros_like(ratio), beta=self.beta)
        metrics = pair_metrics(masked_sum(outputs.logprobs, batch.mask), self.beta * ratio)
        return loss, {**metrics, "gap": batch.scores[:, 0] - batch.scores[:, 1]}
