"""Kahneman-Tversky optimisation: single responses, each labelled desirable or not.

Ethayarajh et al. 2024, arXiv:2402.01306, equation 7.
"""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from alignax.core.constant import constant
from alignax.core.masked import masked_sum
from alignax.core.method import Method, Needs, over_step
from alignax.core.pairs import log_ratios
from alignax.core.records import Group, Labelled, Record
from alignax.core.setting_types import setting
from alignax.core.shapes import require_alike
from alignax.core.types import Batch, Metrics, Number, Outputs, Scalar

BALANCE = 4 / 3  # how many times as much desirable responses may weigh as the others, at most


def kto(
    logprobs: Float[Array, "*b"],
    ref_logprobs: Float[Array, "*b"],
    desirable: Shaped[Array, "*b"],
    kl: Number | Float[Array, "*b"],
    *,
    beta: Number,
    desirable_weight: Number = 1.0,
    undesirable_weight: Number = 1.0,
) -> Float[Array, "*b"]:
    """One minus the value of a response, by how its reward compares with the average one.

    With h = logprobs - ref_logprobs - kl the loss is desirable_weight sigmoid(-beta h) where
    desirable, else undesirable_weight sigmoid(beta h).

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens.
        ref_logprobs: the same under the reference policy. A constant: no gradient flows into it.
        desirable: whether the response is one to make more probable: booleans, or numbers that
            are above 0 where it is.
        kl: the reference point, in nats, one for all responses: max(0, mean of the log-ratios of
            prompts and responses that do not belong together), so already at least 0. A constant.
        beta: how strongly the policy is held to the reference. Typical: 0.1.
        desirable_weight: of desirable responses. So chosen that over the data
            desirable_weight desirable / (undesirable_weight undesirable) is in [1, 4/3].
        undesirable_weight: of undesirable responses.

    Returns:
        One loss a response, in [0, its weight], float32. Half the weight where the policy equals
        the reference and kl is 0.
    """
    require_alike("kto", logprobs=logprobs, ref_logprobs=ref_logprobs, desirable=desirable, kl=kl)
    margin = constant(beta) * (logprobs.astype(jnp.float32) - constant(ref_logprobs) - constant(kl))
    good = constant(desirable_weight) * jax.nn.sigmoid(-margin)
    bad = constant(undesirable_weight) * jax.nn.sigmoid(margin)
    return jnp.where(desirable > 0, good, bad)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KTO(Method):
    """KTO on single responses with labels.

    A group is a response and one to another prompt of the data set, whose log-ratio estimates the
    divergence. It is fixed when data are prepared, as in TRL, never a response to the same prompt,
    and the reference's part of it is on disk. The mean is over the whole optimiser step.

    Fields:
        beta: how strongly the policy is held to the reference, above 0.
        desirable_weight: of desirable responses. So chosen that over the data
            desirable_weight desirable / (undesirable_weight undesirable) is in [1, 4/3].
        undesirable_weight: of undesirable responses. Both weights are at least 0.
    """

    beta: Scalar = setting(0.1, above=0)
    desirable_weight: Scalar = setting(1.0, at_least=0)
    undesirable_weight: Scalar = setting(1.0, at_least=0)

    def needs(self) -> Needs:
        """Labelled responses and the reference's log-probabilities."""
        return Needs(record=Labelled, reference=True)

    def group(self, record: Record) -> Group:
        """The response, then the one to another prompt. The first one's score is its label."""
        labelled = cast(Labelled, record)
        return Group(
            prompt=labelled.prompt,
            responses=(labelled.response, labelled.unrelated),
            scores=(float(labelled.desirable), 0.0),
            origin=labelled.origin,
        )

    def remarks(self, gaps: Float[np.ndarray, " g"]) -> tuple[str, ...]:
        """The balance of the labels, weights included, where it is not what the paper advises."""
        good = int((gaps > 0.5).sum())
        bad = len(gaps) - good
        gain, loss = float(self.desirable_weight) * good, float(self.undesirable_weight) * bad
        if loss <= gain <= BALANCE * loss:
            return ()
        said = f"{good:,} of {len(gaps):,} responses are desirable"
        if not (gain and loss):
            return (f"{said}: of one kind alone, by their weights, nothing is told apart",)
        name, least = (
            ("desirable_weight", loss / good) if gain < loss
            else ("undesirable_weight", gain / (BALANCE * bad))
        )  # fmt: skip
        return (
            f"{said}: with the weights they count {gain / loss:.3g} times as much as the others, "
            f"and 1 to 4/3 times is advised (arXiv:2402.01306); method.{name} from {least:.3g} "
            f"to {BALANCE * least:.3g} gives that",
        )

    def means(self, outputs: Outputs, batch: Batch) -> Metrics:
        """The log-ratio of the response that does not belong to the prompt; the share desirable."""
        return {
            "kl": log_ratios(outputs, batch)[:, 1],
            "desirable": _desirable(batch).astype(jnp.float32),
        }

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Equation 7 for each response; the divergence is clamped at 0 after its mean.

        Means of `rewards/chosen` and `logps/chosen` are over the desirable responses, of `rejected`
        over the others: a number is divided by their share. Where a step has none they are 0.
        """
        ratio, desirable = log_ratios(outputs, batch)[:, 0], _desirable(batch)
        means = over_step(self, outputs, batch)
        kl = jnp.maximum(means["kl"], 0.0)
        loss = kto(
            ratio,
            jnp.zeros_like(ratio),
            desirable,
            kl,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        rewards = self.beta * jax.lax.stop_gradient(ratio)
        signed = jnp.where(desirable, rewards, -rewards)  # a tie counts as not won
        logps = jax.lax.stop_gradient(masked_sum(outputs.logprobs, batch.mask)[:, 0])
        metrics = {
            "kl": jnp.broadcast_to(kl, loss.shape),
            "rewards/accuracies": (signed > 0).astype(jnp.float32),
            "rewards/signed": signed,
            "logps/mean": logps,
        }
        share = means["desirable"]
        for name, there, part in (
            ("chosen", desirable, share), ("rejected", ~desirable, 1.0 - share)
        ):  # fmt: skip
            weight = jnp.where(there, 1.0, 0.0) / jnp.where(part > 0.0, part, 1.0)
            metrics |= {f"rewards/{name}": rewards * weight, f"logps/{name}": logps * weight}
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
        return loss, metrics


def _desirable(batch: Batch) -> Bool[Array, " b"]:
    return batch.scores[:, 0] > 0.5
