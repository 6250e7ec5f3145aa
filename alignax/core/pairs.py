"""What methods on preference pairs share: order, log-ratios with the reference, metrics."""

from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.masked import masked_mean, masked_sum
from alignax.core.records import Group, Preference, Record
from alignax.core.types import Batch, Metrics, Outputs


def chosen_first(record: Record) -> Group:
    """A `Preference` as a group: the chosen response, then the rejected one."""
    pair = cast(Preference, record)
    return Group(
        prompt=pair.prompt,
        responses=(pair.chosen, pair.rejected),
        scores=(1.0, 0.0),
        origin=pair.origin,
        compared=True,
    )


def log_ratios(outputs: Outputs, batch: Batch, *, average: bool = False) -> Float[Array, "b k"]:
    """log policy(y) - log ref(y) of each response, in nats, summed or averaged over its tokens.

    Token by token and then summed: the sums are of the order of 1,000 nats, where float32 steps by
    1e-4, and the difference of two such sums would be no better than that.
    """
    assert batch.ref_logprobs is not None, "the step checks needs().reference"
    reduce = masked_mean if average else masked_sum
    return reduce(outputs.logprobs - jax.lax.stop_gradient(batch.ref_logprobs), batch.mask)


def pair_metrics(logps: Float[Array, "b 2"], rewards: Float[Array, "b 2"]) -> Metrics:
    """TRL's metrics of pairs, without gradient.

    Args:
        logps: log-probability of each response under the policy, summed over its tokens, in nats.
        rewards: the method's implicit reward of each. A tie counts as a pair that is not won.
    """
    logps, rewards = jax.lax.stop_gradient((logps, rewards))
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "rewards/margins": margins,
        "rewards/accuracies": (margins > 0).astype(jnp.float32),
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1],
    }
