"""Odds-ratio preference optimisation: fine-tuning and preference in one, with no reference.

Hong et al. 2024, arXiv:2403.07691, equations 4 to 7.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs
from alignax.core.pairs import chosen_first, pair_metrics
from alignax.core.records import Group, Preference, Record
from alignax.core.setting_types import setting
from alignax.core.shapes import require_pairs
from alignax.core.types import Batch, Metrics, Outputs, Scalar

HIGHEST = -1e-7  # the odds of a certain response are infinite


def orpo(logprobs: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """-log sigmoid(log odds(chosen) - log odds(rejected)), the odds-ratio term of ORPO.

    odds = p / (1 - p) with p = exp(logprobs), the geometric mean of a response's token
    probabilities. The paper weighs the term with lambda (0.1) and adds it to the negative
    log-likelihood of the chosen response (`nll`).

    Args:
        logprobs: log-probability of each response under the policy, in nats, averaged over its
            tokens. The chosen response comes first. Taken as at most -1e-7.

    Returns:
        One loss a pair, in nats, float32. log 2 where both are equally probable.
    """
    require_pairs("orpo", logprobs=logprobs)
    logprobs = jnp.minimum(logprobs.astype(jnp.float32), HIGHEST)
    log_odds = logprobs - jnp.log(-jnp.expm1(logprobs))
    return -jax.nn.log_sigmoid(log_odds[..., 0] - log_odds[..., 1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ORPO(Method):
    """ORPO on preference pairs.

    The likelihood is of the response's tokens; the authors' code takes the prompt's as well.

    Fields:
        weight: of the odds-ratio term, the paper's lambda, at least 0; the chosen response's
            negative log-likelihood, averaged over its tokens, has weight 1.
    """

    weight: Scalar = setting(0.1, at_least=0)

    def needs(self) -> Needs:
        """Preference pairs, and no reference."""
        return Needs(record=Preference)

    def group(self, record: Record) -> Group:
        """Chosen first."""
        return chosen_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Likelihood of the chosen response, and the odds-ratio term."""
        average = masked_mean(outputs.logprobs, batch.mask)
        nll = -average[:, 0]
        metrics = pair_metrics(masked_sum(outputs.logprobs, batch.mask), self.weight * average)
        return nll + self.weight * orpo(average), {**metrics, "nll_loss": nll}
