"""Direct preference optimisation: fit the policy to pairs, with no reward model.

Rafailov et al. 2023, arXiv:2305.18290, equation 7. With `label_smoothing` > 0 it is conservative
DPO (Mitchell 2023): a pair is taken to be the wrong way round with that probability. Robust DPO
(Chowdhury et al. 2024, arXiv:2403.00409) undoes such flips instead. Averaged over
tokens it is Tulu 3's (arXiv:2411.15124); with the chosen response's likelihood beside it, that of
reasoning models trained in rounds (arXiv:2404.19733).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.constant import constant
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import LOSS_ALONE, Method, Needs
from alignax.core.pairs import chosen_first, log_ratios, pair_metrics
from alignax.core.records import Group, Preference, Record
from alignax.core.setting_types import setting
from alignax.core.shapes import require_pairs
from alignax.core.types import Batch, Metrics, Number, Outputs, Scalar


def dpo(
    logprobs: Float[Array, "*b 2"],
    ref_logprobs: Float[Array, "*b 2"],
    *,
    beta: Number,
    label_smoothing: Number = 0.0,
) -> Float[Array, "*b"]:
    """Negative log-likelihood of the preferred order under the implicit reward.

    With h = (logprobs - ref_logprobs)[..., 0] - (logprobs - ref_logprobs)[..., 1] the loss is
    -(1 - label_smoothing) log sigmoid(beta h) - label_smoothing log sigmoid(-beta h).

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens. The chosen response comes first.
        ref_logprobs: the same under the reference policy. A constant: no gradient flows into it.
        beta: how strongly the policy is held to the reference. Typical: 0.01 to 0.5.
        label_smoothing: probability, in [0, 0.5), that a pair is mislabelled.

    Returns:
        One loss a pair, in nats, float32. log 2 where the policy equals the reference.
    """
    require_pairs("dpo", logprobs=logprobs, ref_logprobs=ref_logprobs)
    reward = constant(beta) * (logprobs.astype(jnp.float32) - constant(ref_logprobs))
    margin, flips = reward[..., 0] - reward[..., 1], constant(label_smoothing)
    agree, disagree = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    return -(1.0 - flips) * agree - flips * disagree


def robust_dpo(
    logprobs: Float[Array, "*b 2"],
    ref_logprobs: Float[Array, "*b 2"],
    *,
    beta: Number,
    label_smoothing: Number,
) -> Float[Array, "*b"]:
    """DPO's loss of the true labels, estimated without bias from labels that may be flipped.

    With L the loss of the pair and L' that of the pair swapped it is
    ((1 - label_smoothing) L - label_smoothing L') / (1 - 2 label_smoothing).

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens. The chosen response comes first.
        ref_logprobs: the same under the reference policy. A constant: no gradient flows into it.
        beta: how strongly the policy is held to the reference. Typical: 0.01 to 0.5.
        label_smoothing: probability, in [0, 0.5), that a pair is mislabelled. Typical: 0.1.

    Returns:
        One loss a pair, in nats, float32. log 2 where the policy equals the reference. It has no
        minimum: it falls without end as the margin grows, and is negative from some margin on.
    """
    require_pairs("robust_dpo", logprobs=logprobs, ref_logprobs=ref_logprobs)
    ratio = logprobs.astype(jnp.float32) - constant(ref_logprobs)
    margin = constant(beta) * (ratio[..., 0] - ratio[..., 1])
    flips = constant(label_smoothing)
    # L' = L + margin, so that what is left of it is a slope.
    return -jax.nn.log_sigmoid(margin) - flips / (1.0 - 2.0 * flips) * margin


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO(Method):
    """DPO on preference pairs.

    Fields:
        beta: how strongly the policy is held to the reference, above 0.
        label_smoothing: probability, in [0, 0.5), that a pair is mislabelled.
        average: take log-ratios a token and not a response, so that length does not count. A
            typical beta is then 5.
        nll_weight: of the chosen response's negative log-likelihood, averaged over its tokens; at
            least 0. None for none of it. Typical: 0.2 to 1.
    """

    beta: Scalar = setting(0.1, above=0)
    label_smoothing: Scalar = setting(0.0, at_least=0, below=0.5)
    average: bool = dataclasses.field(default=False, metadata=LOSS_ALONE)
    nll_weight: float | None = setting(None, at_least=0, **LOSS_ALONE)

    def needs(self) -> Needs:
        """Preference pairs and the reference's log-probabilities."""
        return Needs(record=Preference, reference=True)

    def group(self, record: Record) -> Group:
        """Chosen first."""
        return chosen_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Equation 7 for each pair; metrics under TRL's names, rewards without gradient."""
        ratio = log_ratios(outputs, batch, average=self.average)
        loss = dpo(
            ratio, jnp.zeros_like(ratio), beta=self.beta, label_smoothing=self.label_smoothing
        )
        metrics = pair_metrics(masked_sum(outputs.logprobs, batch.mask), self.beta * ratio)
        if self.nll_weight is None:
            return loss, metrics
        nll = -masked_mean(outputs.logprobs, batch.mask)[:, 0]
        return loss + self.nll_weight * nll, {**metrics, "nll_loss": nll}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustDPO(Method):
    """DPO on pairs of which a known share is mislabelled (arXiv:2403.00409).

    Fields:
        beta: how strongly the policy is held to the reference, above 0.
        label_smoothing: probability, in [0, 0.5), that a pair is mislabelled.
    """

    beta: Scalar = setting(0.1, above=0)
    label_smoothing: Scalar = setting(0.1, at_least=0, below=0.5)

    def needs(self) -> Needs:
        """Preference pairs and the reference's log-probabilities."""
        return Needs(record=Preference, reference=True)

    def group(self, record: Record) -> Group:
        """Chosen first."""
        return chosen_first(record)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The estimate of the loss of the true labels. May be negative."""
        ratio = log_ratios(outputs, batch)
        loss = robust_dpo(
            ratio, jnp.zeros_like(ratio), beta=self.beta, label_smoothing=self.label_smoothing
        )
        return loss, pair_metrics(masked_sum(outputs.logprobs, batch.mask), self.beta * ratio)
