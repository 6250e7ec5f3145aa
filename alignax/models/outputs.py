"""What a model says of a batch: (params, batch, layout) -> Outputs.

The one place where hidden states meet targets: the shift by one is made by `layout.source`, and
only scored tokens meet the vocabulary.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from alignax.core.logprobs import CHUNK_BYTES, token_logprobs
from alignax.core.types import Batch, Layout, Outputs, Params
from alignax.models.transformer import Decoder


def outputs(
    model: Decoder,
    params: Params,
    batch: Batch,
    layout: Layout,
    *,
    reach: tuple[int, ...] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Outputs:
    """Log-probabilities of the scored response tokens of a batch, through its packed rows.

    A reward model has no vocabulary head: its log-probabilities are 0, and `rewards` and
    `attributes` are its head's outputs at the last token of each response, scored or not.

    Args:
        reach: how far back each block of a row looks, where the plan knows it.
        chunk_bytes: how many bytes of logits may exist at once.
    """
    hidden = model.packed(params, layout, reach=reach)
    if model.config.num_scores:
        found = _at_last_tokens(model.scores(params, hidden), batch, layout)
        logprobs = jnp.zeros(batch.mask.shape, jnp.float32)
        return Outputs(logprobs=logprobs, rewards=found[..., 0], attributes=found)
    hidden = hidden.reshape(layout.source.shape[0], -1, hidden.shape[-1])
    hidden = jnp.take_along_axis(hidden, layout.source[..., None], axis=1)
    logprobs = token_logprobs(hidden, model.head(params), layout.target, chunk_bytes=chunk_bytes)
    size = batch.mask.size
    slot = jnp.where(layout.slot < 0, size, layout.slot)  # beyond the end: dropped
    flat = jnp.zeros(size, jnp.float32).at[slot].set(logprobs, mode="drop", unique_indices=False)
    return Outputs(logprobs=flat.reshape(batch.mask.shape))


def _at_last_tokens(
    scores: Float[Array, "n t c"], batch: Batch, layout: Layout
) -> Float[Array, "b k c"]:
    """Of every token's scores those at the last token of each response; 0 where there is none.

    They are moved to their places by adding, so that a device needs no other device's rows.
    """
    b, k = batch.valid.shape
    place = jnp.where(layout.response > 0, layout.group * k + layout.response - 1, b * k)
    after = jnp.pad(place[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    place = jnp.where(place != after, place, b * k)  # beyond the end: dropped
    zeros = jnp.zeros((b * k, scores.shape[-1]), jnp.float32)
    return zeros.at[place].add(scores, mode="drop").reshape(b, k, -1)


def score_responses(
    model: Decoder,
    params: Params,
    prompts: Int[Array, "b p"],
    prompt_lengths: Int[Array, " b"],
    responses: Int[Array, "b k r"],
    mask: Bool[Array, "b k r"],
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Float[Array, "b k r"]:
    """Log-probabilities of responses that were sampled, by the calls that sampled them.

    Each prompt is computed once (`prefill`) and all its responses in one `extend`; 0 off the mask.
    """
    b, k, r = responses.shape
    last, cache = model.prefill(params, prompts, prompt_lengths, num_responses=k, max_response=r)
    hidden, _ = model.extend(params, cache, responses)
    first = jnp.broadcast_to(last[:, None, None], (b, k, 1, last.shape[-1]))
    hidden = jnp.concatenate([first, hidden[:, :, :-1]], axis=2).reshape(b, k * r, -1)
    logprobs = token_logprobs(
        hidden, model.head(params), responses.reshape(b, k * r), chunk_bytes=chunk_bytes
    )
    return jnp.where(mask, logprobs.reshape(b, k, r), 0.0)
