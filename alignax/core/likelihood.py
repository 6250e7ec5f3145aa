"""What methods that imitate single responses share."""

from jaxtyping import Array, Float

from alignax.core.masked import masked_mean, masked_sum
from alignax.core.types import Batch, Metrics, Outputs


def imitation(outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
    """Negative log-likelihood of the one response to each prompt, and its mean token's metric.

    Returns:
        In nats, summed over the scored tokens of a response; 0 where there are none.
    """
    loss = -masked_sum(outputs.logprobs, batch.mask)[:, 0]
    return loss, {"logps/mean_token": masked_mean(outputs.logprobs, batch.mask)[:, 0]}
