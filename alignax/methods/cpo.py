"""Contrastive preference optimisation: DPO's loss with the reference taken to be uniform.

Xu et al. 2024, arXiv:2401.08417, equation 3.
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


def cpo(
    logprobs: Float[Array, "*b 2"], *, beta: Number, label_smoothing: Number = 0.0
) -> Float[Array, "*b"]:
    """-log sigmoid(beta (logprobs[..., 0] - logprobs[..., 1])), the preference term of CPO.

    With `label_smoothing` > 0 a pair is taken to be the wrong way round with that probability.
    The paper adds the negative log-likelihood of the chosen response (`nll`).

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens. The chosen response comes first.
        beta: the scale of the implicit reward. Typical: 0.1.
        label_smoothing: probability, in [0, 0.5), that a pair is mislabelled.

    Returns:
        One loss a pair, in nats, float32. log 2 where both are equally probable.
    """
    require_pairs("cpo", logprobs=logprobs)
    logprobs = logprobs.astype(jnp.float32)
    margin = constant(beta) * (logprobs[..., 0] - logprobs[..., 1])
    # (1 - eps) softplus(-m) + eps softplus(m), and softplus(m) = softplus(-m) + m.
    return jax.nn.softplus(-margin) + constant(label_smoothing) * margin


@dataclasses.dataclass(frozen=True, kw_only=True)
class CPO(Method):
    """CPO on preference pairs.

    Fields:
        beta: the scale of the implicit reward, at least 0.
        label_smoothing: probability, in [0, 0.5), that a pair is mislabelled.
        nll_weight: of the chosen response's negative log-likelihood, averaged over its tokens; at
            least 0.
    """

    beta: Scalar = setting(0.1, at_least=0)
    label_smoothing: Scalar = setting(0.0, at_least=0, below=0.5)
    nll_weight: Scalar = setting(1.0, at_least=0)

    def needs(self) -> Needs:
        """Preference pairs, and no reference."""
        return Needs(record=Preference)

    def group(self, record: Record) -> Group:
        """Chosen first."""
        return chosen_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The preference term and the likelihood of the chosen response."""
        logps = masked_sum(outputs.logprobs, batch.mask)
        nll = -masked_mean(outputs.logprobs, batch.mask)[:, 0]
        loss = cpo(logps, beta=self.beta, label_smoothing=self.label_smoothing)
        metrics = pair_metrics(logps, self.beta * logps)
        return loss + self.nll_weight * nll, {**metrics, "nll_loss": nll}
