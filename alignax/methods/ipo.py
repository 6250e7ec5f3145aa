"""Identity preference optimisation: lead the margin to a finite target instead of to infinity.

Azar et al. 2023, arXiv:2310.12036, equation 17.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.constant import constant
from alignax.core.masked import masked_sum
from alignax.core.method import Method, Needs
from alignax.core.pairs import chosen_first, log_ratios, pair_metrics
from alignax.core.records import Group, Preference, Record
from alignax.core.setting_types import setting
from alignax.core.shapes import require_pairs
from alignax.core.types import Batch, Metrics, Number, Outputs, Scalar


def ipo(
    logprobs: Float[Array, "*b 2"], ref_logprobs: Float[Array, "*b 2"], *, tau: Number
) -> Float[Array, "*b"]:
    """Squared distance of the log-ratios' difference from its target.

    With h = (logprobs - ref_logprobs)[..., 0] - (logprobs - ref_logprobs)[..., 1] the loss is
    (h - 1 / (2 tau))^2, the same for sums and for averages over tokens.

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens as in the paper, or averaged as its authors advise. The chosen response comes
            first.
        ref_logprobs: the same under the reference policy. A constant: no gradient flows into it.
        tau: how strongly the policy is held to the reference, above 0. Typical: 0.01 to 0.5. The
            target is in nats a response, or with averages in nats a token.

    Returns:
        One loss a pair, in squared nats, float32. 1 / (4 tau^2) where the policy equals the
        reference.
    """
    require_pairs("ipo", logprobs=logprobs, ref_logprobs=ref_logprobs)
    ratio = logprobs.astype(jnp.float32) - constant(ref_logprobs)
    return (ratio[..., 0] - ratio[..., 1] - 0.5 / constant(tau)) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class IPO(Method):
    """IPO on preference pairs.

    Fields:
        tau: how strongly the policy is held to the reference, above 0.
        average: take log-ratios a token, as TRL does, and not a response, as the paper does. The
            target 1 / (2 tau) is then in nats a token.
    """

    tau: Scalar = setting(0.1, above=0)
    average: bool = True

    def needs(self) -> Needs:
        """Preference pairs and the reference's log-probabilities."""
        return Needs(record=Preference, reference=True)

    def group(self, record: Record) -> Group:
        """Chosen first."""
        return chosen_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The squared distance of each pair from the target; rewards are tau times log-ratios."""
        ratio = log_ratios(outputs, batch, average=self.average)
        loss = ipo(ratio, jnp.zeros_like(ratio), tau=self.tau)
        return loss, pair_metrics(masked_sum(outputs.logprobs, batch.mask), self.tau * ratio)
