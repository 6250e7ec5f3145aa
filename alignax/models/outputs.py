"""What a model says of a batch: (params, batch, layout) -> Outputs.

The one place where hidden states meet targets: the shift by one is made by `layout.source`, and
only scored tokens meet the vocabulary.
"""

import jax.numpy as jnp

from alignax.core.logprobs import CHUNK_BYTES, token_logprobs
from alignax.core.types import Batch, Layout, Outputs, Params
from alignax.models.transformer import Decoder


def outputs(
    model: Decoder,
    params: Params,
    batch: Batch,
    layout: Layout,
    *,
    reach: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Outputs:
    """Log-probabilities of the scored response tokens of a batch, through its packed rows.

    Args:
        reach: tokens of the longest group, where the plan knows it to be less than a row.
        chunk_bytes: how many bytes of logits may exist at once.
    """
    hidden = model.packed(params, layout, reach=reach)
    hidden = jnp.take_along_axis(hidden, layout.source[..., None], axis=1)
    logprobs = token_logprobs(hidden, model.head(params), layout.target, chunk_bytes=chunk_bytes)
    size = batch.mask.size
    slot = jnp.where(layout.slot < 0, size, layout.slot)  # beyond the end: dropped
    flat = jnp.zeros(size, jnp.float32).at[slot].set(logprobs, mode="drop", unique_indices=False)
    return Outputs(logprobs=flat.reshape(batch.mask.shape))
