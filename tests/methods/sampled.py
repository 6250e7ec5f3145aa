"""Batches as a feed gives them to `Method.select`, written down by hand."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from alignax.core.types import Batch

Drawn = Sequence[Sequence[Sequence[int]]]


def drawn(responses: Drawn, scores, *, valid=None, old=None, ref=None, pad: int = 0) -> Batch:
    """b prompts, [i, i], and the token ids of k responses to each.

    Args:
        responses: of any lengths; padded with token 0 to the longest and `pad` further.
        old, ref: the log-probability of each response, [b, k], which its tokens share evenly.
    """
    lengths = np.array([[len(tokens) for tokens in each] for each in responses])
    b, k = lengths.shape
    r = lengths.max() + pad
    mask = np.arange(r) < lengths[..., None]
    tokens = np.zeros((b, k, r), np.int32)
    tokens[mask] = [token for each in responses for response in each for token in response]

    def a_token(summed):
        if summed is None:
            return None
        return jnp.asarray(np.asarray(summed)[..., None] / lengths[..., None] * mask, jnp.float32)

    return Batch(
        prompts=jnp.tile(jnp.arange(b, dtype=jnp.int32)[:, None], (1, 2)),
        prompt_lengths=jnp.full(b, 2, jnp.int32),
        responses=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        scores=jnp.asarray(scores, jnp.float32),
        valid=jnp.ones((b, k), bool) if valid is None else jnp.asarray(valid),
        old_logprobs=a_token(old),
        ref_logprobs=a_token(ref),
    )


def texts(batch: Batch) -> list:
    """For each prompt, its number and its valid responses, as lists of token ids."""
    assert not np.any(np.asarray(batch.mask) & ~np.asarray(batch.valid)[..., None])
    return [
        (int(prompt[0]), [row[here].tolist() for row, here, good in zip(*of, strict=True) if good])
        for prompt, *of in zip(
            *(np.asarray(x) for x in (batch.prompts, batch.responses, batch.mask, batch.valid)),
            strict=True,
        )
    ]
