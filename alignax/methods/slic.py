"""Sequence likelihood calibration: a hinge on the log-probabilities of a pair.

Zhao et al. 2023, arXiv:2305.10425; measured against a reference, Liu et al. 2023,
arXiv:2309.06657, where it is called hinge-norm.
"""

import dataclasses

import jax
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


def slic(logprobs: Float[Array, "*b 2"], *, delta: Number) -> Float[Array, "*b"]:
    """max(0, delta - logprobs[..., 0] + logprobs[..., 1]), the calibration term of SLiC.

    The paper adds a multiple of the negative log-likelihood of a target (`nll`).

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens. The chosen response comes first.
        delta: the margin from which on a pair is good enough, in nats. Typical: 1.

    Returns:
        One loss a pair, in nats, float32. delta where both are equally probable.
    """
    require_pairs("slic", logprobs=logprobs)
    logprobs = logprobs.astype(jnp.float32)
    return jax.nn.relu(constant(delta) - (logprobs[..., 0] - logprobs[..., 1]))


def hinge(
    logprobs: Float[Array, "*b 2"], ref_logprobs: Float[Array, "*b 2"], *, beta: Number
) -> Float[Array, "*b"]:
    """max(0, 1 - beta h), SLiC's hinge on the log-ratios with the reference.

    h = (logprobs - ref_logprobs)[..., 0] - (logprobs - ref_logprobs)[..., 1].

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens. The chosen response comes first.
        ref_logprobs: the same under the reference policy. A constant: no gradient flows into it.
        beta: one over the margin, in nats, from which on a pair is good enough. Typical: 0.05.

    Returns:
        One loss a pair, float32. 1 where the policy equals the reference.
    """
    require_pairs("hinge", logprobs=logprobs, ref_logprobs=ref_logprobs)
    ratio = logprobs.astype(jnp.float32) - constant(ref_logprobs)
    return jax.nn.relu(1.0 - constant(beta) * (ratio[..., 0] - ratio[..., 1]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SLiC(Method):
    """SLiC on preference pairs, with the chosen response as its own target.

    Fields:
        delta: the margin from which on a pair is good enough, in nats, at least 0.
        nll_weight: the paper's lambda, of the chosen response's negative log-likelihood, summed
            over its tokens; at least 0.
    """

    delta: Scalar = setting(1.0, at_least=0)
    nll_weight: Scalar = setting(0.1, at_least=0)

    def needs(self) -> Needs:
        """Preference pairs, and no reference."""
        return Needs(record=Preference)

    def group(self, record: Record) -> Group:
        """Chosen first."""
        return chosen_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Calibration and likelihood; rewards are log-probabilities."""
        logps = masked_sum(outputs.logprobs, batch.mask)
        loss = slic(logps, delta=self.delta) - self.nll_weight * logps[:, 0]
        return loss, {**pair_metrics(logps, logps), "nll_loss": -logps[:, 0]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hinge(Method):
    """SLiC's hinge against a reference (hinge-norm, arXiv:2309.06657), on preference pairs.

    Fields:
        beta: one over the margin, in nats, from which on a pair is good enough; above 0.
    """

    beta: Scalar = setting(0.05, above=0)

    def needs(self) -> Needs:
        """Preference pairs and the reference's log-probabilities."""
        return Needs(record=Preference, reference=True)

    def group(self, record: Record) -> Group:
        """Chosen first."""
        return chosen_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The hinge of each pair; rewards are beta times log-ratios."""
        ratio = log_ratios(outputs, batch)
        loss = hinge(ratio, jnp.zeros_like(ratio), beta=self.beta)
        return loss, pair_metrics(masked_sum(outputs.logprobs, batch.mask), self.beta * ratio)
