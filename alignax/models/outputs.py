"""What a model says of a batch: (params, batch, layout) -> Outputs.

The one place where hidden states meet targets: the shift by one is made by `layout.source`, and
only scored tokens meet the vocabulary. A model with a `score` head has no vocabulary to meet: it
gives its rewards for whole responses, read where each one ends.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from alignax.core.axes import sequence_shards, split_all
from alignax.core.gathers import take_rows
from alignax.core.logprobs import token_logprobs, token_logprobs_and_entropy
from alignax.core.types import Batch, Layout, Outputs, Params
from alignax.models.transformer import Decoder


def outputs(
    model: Decoder,
    params: Params,
    batch: Batch,
    layout: Layout,
    *,
    reach: tuple[int, ...] | None = None,
    entropy: bool = False,
    temperature: float = 1.0,
    chunk_bytes: int | None = None,
) -> Outputs:
    """Log-probabilities of the scored response tokens of a batch, through its packed rows.

    Where the model has a `score` head instead of a vocabulary, log-probabilities are zeros and
    `rewards` and `attributes` are the head's outputs at the last token of each response, scored
    or not; 0 for a response that is not valid or has no tokens.

    Args:
        reach: how far back each block of a row looks, where the plan knows it.
        entropy: give that of the distributions too which the scored tokens are drawn from.
        temperature: divides the logits of both.
        chunk_bytes: how many bytes of logits may exist at once; as `core.logprobs` has it.
    """
    prompts, responses = batch.valid.shape
    hidden = model.packed(params, layout, reach=reach, segments=prompts * (1 + responses))
    if model.config.num_scores:
        attributes = _at_ends(model.scores(params, hidden), batch, layout)
        nothing = jnp.zeros(batch.mask.shape, jnp.float32)
        return Outputs(logprobs=nothing, rewards=attributes[..., 0], attributes=attributes)
    hidden = hidden.reshape(layout.source.shape[0], -1, hidden.shape[-1])
    hidden = jax.vmap(take_rows)(hidden, layout.source)
    parts = layout.target.shape[0] * sequence_shards()
    parts = parts if layout.target.size % parts == 0 else layout.target.shape[0]
    arrays = (
        split_all(hidden.reshape(parts, -1, hidden.shape[-1])),
        model.head(params),
        layout.target.reshape(parts, -1),
    )
    settings: dict[str, Any] = {
        "softcap": model.config.logits_softcap,
        "temperature": temperature,
        "chunk_bytes": chunk_bytes,
    }
    if not entropy:
        logprobs = token_logprobs(*arrays, **settings)
        return Outputs(logprobs=by_response(logprobs, batch, layout))
    found = token_logprobs_and_entropy(*arrays, **settings)
    logprobs, entropies = (by_response(x, batch, layout) for x in found)
    return Outputs(logprobs=logprobs, entropy=entropies)


def by_response(x: Float[Array, "n m"], batch: Batch, layout: Layout) -> Float[Array, "b k r"]:
    """Numbers of scored tokens, in the order of `layout.slot`, at their places; 0 elsewhere."""
    size = batch.mask.size
    slot = _placed(layout.slot, layout.slot >= 0, size)
    flat = jnp.zeros(size, jnp.float32).at[slot].set(x.ravel(), mode="drop", unique_indices=True)
    return flat.reshape(batch.mask.shape)


def _placed(place: Int[Array, "*m"], there: Bool[Array, "*m"], size: int) -> Int[Array, " n"]:
    """Places of their own for all: those that are not there lie beyond the end, to be dropped."""
    place, there = place.ravel(), there.ravel()
    return jnp.where(there, place, size + jnp.arange(place.size, dtype=place.dtype))


def _at_ends(scores: Float[Array, "n t c"], batch: Batch, layout: Layout) -> Float[Array, "b k c"]:
    """The scores at the last token of each response; 0 where there is none.

    All tokens are scored, which costs little, and each row adds its own ends to the whole: where
    rows lie on several devices, a few numbers a response are summed and no states are moved.
    """
    segment = jnp.stack([layout.group, layout.response])
    goes_on = (segment[:, :, 1:] == segment[:, :, :-1]).all(axis=0)
    ends = jnp.pad(~goes_on, ((0, 0), (0, 1)), constant_values=True)
    ends &= (layout.group >= 0) & (layout.response > 0)
    b, k = batch.valid.shape
    place = _placed(layout.group * k + layout.response - 1, ends, b * k)
    flat = jnp.zeros((b * k, scores.shape[-1]), scores.dtype)
    scores = scores.reshape(-1, scores.shape[-1])
    flat = flat.at[place].add(scores, mode="drop", unique_indices=True)
    return jnp.where(batch.valid[..., None], flat.reshape(b, k, -1), 0.0)


def score_responses(
    model: Decoder,
    params: Params,
    prompts: Int[Array, "b p"],
    prompt_lengths: Int[Array, " b"],
    responses: Int[Array, "b k r"],
    mask: Bool[Array, "b k r"],
    *,
    chunk_bytes: int | None = None,
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
        hidden,
        model.head(params),
        responses.reshape(b, k * r),
        softcap=model.config.logits_softcap,
        chunk_bytes=chunk_bytes,
    )
    return jnp.where(mask, logprobs.reshape(b, k, r), 0.0)
