"""Simple preference optimisation: average log-probabilities as rewards, a margin, no reference.

Meng et al. 2024, arXiv:2405.14734.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.constant import constant
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs
from alignax.core.pairs import chosen_first, pair_metrics
from alignax.core.records import Group, Preference, Record
from alignax.core.setting_types import setting
from alignax.core.shapes import require_pairs
from alignax.core.types import Batch, Metrics, Number, Outputs, Scalar


def simpo(logprobs: Float[Array, "*b 2"], *, beta: Number, gamma: Number) -> Float[Array, "*b"]:
    """-log sigmoid(beta (logprobs[..., 0] - logprobs[..., 1]) - gamma).

    Args:
        logprobs: log-probability of each response under the policy, in nats, averaged over its
            tokens. The chosen response comes first.
        beta: the scale of the implicit reward. Typical: 2 to 10.
        gamma: the margin by which the chosen reward should win, in units of reward; the authors'
            gamma_beta_ratio is gamma / beta. Typical: 0.3 beta to 0.8 beta.

    Returns:
        One loss a pair, in nats, float32. log(1 + e^gamma) where both are equally probable.
    """
    require_pairs("simpo", logprobs=logprobs)
    logprobs = logprobs.astype(jnp.float32)
    margin = constant(beta) * (logprobs[..., 0] - logprobs[..., 1])
    return -jax.nn.log_sigmoid(margin - constant(gamma))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimPO(Method):
    """SimPO on preference pairs.

    Fields:
        beta: the scale of the implicit reward, above 0.
        gamma: the margin by which the chosen reward should win, at least 0. Typical: 0.3 beta to
            0.8 beta.
    """

    beta: Scalar = setting(2.0, above=0)
    gamma: Scalar = setting(1.0, at_least=0)

    def needs(self) -> Needs:
        """Preference pairs, and no reference."""
        return Needs(record=Preference)

    def group(self, record: Record) -> Group:
        """Chosen first."""
        return chosen_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The loss of each pair; rewards are beta times average log-probabilities."""
        average = masked_mean(outputs.logprobs, batch.mask)
        loss = simpo(average, beta=self.beta, gamma=self.gamma)
        return loss, pair_metrics(masked_sum(outputs.logprobs, batch.mask), self.beta * average)
