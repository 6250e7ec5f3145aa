"""Supervised fine-tuning: maximum likelihood of demonstrated responses.

The loss is the negative log-likelihood of the assistant's tokens, end-of-turn included, averaged
over all such tokens of the optimiser step (over devices and micro-batches), so that a long
response weighs more than a short one, as in the usual language-model loss.
"""

import dataclasses
from typing import cast

from jaxtyping import Array, Bool, Float

from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs
from alignax.core.records import Demonstration, Group, Record
from alignax.core.shapes import require_alike
from alignax.core.types import Batch, Metrics, Outputs


def nll(logprobs: Float[Array, "*b r"], mask: Bool[Array, "*b r"]) -> Float[Array, "*b"]:
    """Negative log-likelihood of a response: -sum_t log pi(y_t | x, y_<t) over the mask.

    Args:
        logprobs: log-probability of each response token under the policy, in nats.
        mask: True on the tokens that count.

    Returns:
        One number a response, in nats, summed and not averaged. 0 where the mask is empty; for r
        tokens that are uniform over v words, r log v.
    """
    require_alike("nll", 1, logprobs=logprobs, mask=mask)
    return -masked_sum(logprobs, mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFT(Method):
    """Supervised fine-tuning on demonstrations. It has no hyperparameters of its own."""

    def needs(self) -> Needs:
        """Demonstrations, and a mean over the tokens of the whole step."""
        return Needs(record=Demonstration, mean_over="tokens")

    def group(self, record: Record) -> Group:
        """The one response."""
        demo = cast(Demonstration, record)
        return Group(
            prompt=demo.prompt, responses=(demo.response,), scores=(0.0,), origin=demo.origin
        )

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The summed negative log-likelihood of each prompt's responses."""
        mask = batch.mask & batch.valid[..., None]
        loss = nll(outputs.logprobs, mask).sum(axis=-1)
        return loss, {
            "logps/mean_token": masked_mean(
                outputs.logprobs.reshape(mask.shape[0], -1), mask.reshape(mask.shape[0], -1)
            )
        }
