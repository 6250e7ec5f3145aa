"""What of a sampled and scored batch is learnt from: responses picked, paired, told apart.

Shapes are static: where there is too little to pick, what fills the arrays is not valid. An
invalid response has an empty mask too, so that no loss sees its tokens.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alignax.core.constant import constant
from alignax.core.rollouts import BY_RESPONSE
from alignax.core.types import Batch

Pairing = Literal["best-worst", "first-round", "tournament", "all"]
OF_RESPONSES = tuple(name for name in BY_RESPONSE if name != "valid")


def distinct(batch: Batch) -> Bool[Array, "b k"]:
    """Where a response is valid, and no earlier valid one to its prompt has the same tokens.

    What stands off the mask is not compared.
    """
    tokens = jnp.where(batch.mask, batch.responses, -1)
    earlier = jnp.tri(tokens.shape[1], k=-1, dtype=bool)

    def of_one(inputs: tuple[Array, Array]) -> Array:
        tokens, valid = inputs
        same = jnp.all(tokens[:, None] == tokens[None], axis=-1)
        return valid & ~jnp.any(same & earlier & valid[None], axis=-1)

    # Prompt by prompt: every response against every other is too large for all at once.
    return jax.lax.map(of_one, (tokens, jnp.asarray(batch.valid)))


def only_ranked(scores: Float[Array, "b k"], valid: Bool[Array, "b k"]) -> Bool[Array, "b k"]:
    """`valid` where the prompt has valid responses of unequal score; False where it has not."""
    highest = jnp.max(jnp.where(valid, scores, -jnp.inf), axis=1, keepdims=True)
    lowest = jnp.min(jnp.where(valid, scores, jnp.inf), axis=1, keepdims=True)
    return valid & (highest > lowest)


def pairs(
    scores: Float[Array, "b k"], valid: Bool[Array, "b k"], pairing: Pairing
) -> tuple[Int[Array, "b m 2"], Bool[Array, "b m"]]:
    """Pairs of the responses to each prompt, the higher score first.

    Args:
        scores: of each response, higher is better.
        valid: False for responses that must not be in a pair.
        pairing: which pairs. Responses are taken as they come; shuffle them first where their
            order is not random.
            - best-worst: one pair. Of several best or worst, the first.
            - first-round: the first with the second, the third with the fourth: k // 2 pairs.
            - tournament: the first round, then the winners the same way until one is left: k - 1
              pairs. One without an opponent goes on, and so does one whose opponent is invalid;
              of two with the same score the first goes on.
            - all: k (k - 1) / 2 pairs.

    Returns:
        Indices into axis k, and whether the two of a pair are both valid and of unequal score.
    """
    scores, valid = jnp.where(valid, constant(scores), -jnp.inf), jnp.asarray(valid)
    index = jax.vmap(lambda x, valid: _pairs(x, valid, pairing))(scores, valid)
    first, second = (_at(scores, index[..., side]) for side in (0, 1))
    both = _at(valid, index[..., 0]) & _at(valid, index[..., 1])
    return index, both & (first > second)


def _pairs(
    scores: Float[Array, " k"], valid: Bool[Array, " k"], pairing: Pairing
) -> Int[Array, "m 2"]:
    k = scores.shape[0]
    if pairing == "best-worst":
        worst = jnp.argmin(jnp.where(valid, scores, jnp.inf))
        return jnp.stack([jnp.argmax(scores), worst])[None].astype(jnp.int32)
    if pairing == "all":
        one, other = (jnp.asarray(x, jnp.int32) for x in np.triu_indices(k, 1))
        return _winner_first(scores, one, other)
    found, standing = [], jnp.arange(k, dtype=jnp.int32)
    while standing.shape[0] > 1:
        met = standing.shape[0] // 2 * 2
        found.append(_winner_first(scores, standing[0:met:2], standing[1:met:2]))
        if pairing == "first-round":
            break
        standing = jnp.concatenate([found[-1][:, 0], standing[met:]])
    return jnp.concatenate(found) if found else jnp.zeros((0, 2), jnp.int32)


def _winner_first(
    scores: Float[Array, " k"], one: Int[Array, " m"], other: Int[Array, " m"]
) -> Int[Array, "m 2"]:
    upset = scores[other] > scores[one]
    return jnp.stack([jnp.where(upset, other, one), jnp.where(upset, one, other)], axis=-1)


def _at(x: Array, index: Int[Array, "b m"]) -> Array:
    """x [b, k, ...] at the indices of each prompt."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), axis=1)


def take(batch: Batch, index: Int[Array, "b m"], valid: Bool[Array, "b m"]) -> Batch:
    """The batch with responses `index` of each prompt in place of all k; m of them."""
    found = {name: getattr(batch, name) for name in OF_RESPONSES}
    kept = {name: _at(jnp.asarray(x), index) for name, x in found.items() if x is not None}
    return batch._replace(**kept | {"mask": kept["mask"] & valid[..., None]}, valid=valid)


def spread(batch: Batch, size: int) -> Batch:
    """Every `size` responses in a row as a prompt of their own: b k / size prompts.

    Prompts are repeated, and the new ones stand where the old ones did.
    """
    times = batch.valid.shape[1] // size
    found = {name: getattr(batch, name) for name in BY_RESPONSE}
    split = {
        name: jnp.reshape(x, (-1, size, *x.shape[2:])) for name, x in found.items() if x is not None
    }
    return batch._replace(
        prompts=jnp.repeat(jnp.asarray(batch.prompts), times, axis=0),
        prompt_lengths=jnp.repeat(jnp.asarray(batch.prompt_lengths), times, axis=0),
        **split,
    )


def take_pairs(batch: Batch, index: Int[Array, "b m 2"], useful: Bool[Array, "b m"]) -> Batch:
    """Each pair as a prompt of its own: b m prompts with two responses."""
    b, m = useful.shape
    return spread(take(batch, index.reshape(b, 2 * m), jnp.repeat(useful, 2, axis=1)), 2)


def take_best(
    batch: Batch, scores: Float[Array, "b k"], *, over: Literal["per_prompt", "global"]
) -> Batch:
    """b responses, each alone with its prompt: the best to each prompt, or the best of all.

    Args:
        scores: what is compared; may differ from the batch's own, which are kept.
        over: per_prompt keeps the first of the best valid responses to each prompt; global the b
            best of all b k, so that one prompt may come several times and another not at all.
    """
    compared = jnp.where(batch.valid, constant(scores), -jnp.inf)
    if over == "per_prompt":
        best = jnp.argmax(compared, axis=1)[:, None].astype(jnp.int32)
        return take(batch, best, _at(jnp.asarray(batch.valid), best))
    rows = jnp.argsort(-compared.ravel())[: compared.shape[0]]  # stable: of equals, the first
    everything = jnp.broadcast_to(jnp.arange(compared.shape[1]), compared.shape)
    alone = spread(take(batch, everything, jnp.asarray(batch.valid)), 1)
    return jax.tree.map(lambda x: x[rows], alone)


def best_of_rounds(
    scores: Float[np.ndarray, " n"], prompt_ids: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " m"]:
    """The best response to each prompt in a pool of what several rounds have kept.

    Args:
        scores: of each response of the pool, the oldest round first.
        prompt_ids: which prompt each responds to; equal for equal prompts.

    Returns:
        One index into the pool for each prompt that is in it, in rising order. Of equally good
        responses the latest is kept, because the policy has moved on since the others were drawn.

    Example:
        >>> best_of_rounds(np.array([1.0, 3.0, 2.0, 0.0]), np.array([7, 9, 7, 9]))
        array([1, 2])
    """
    order = np.lexsort((np.arange(len(scores)), scores, prompt_ids))  # the last key counts most
    sorted_ids = prompt_ids[order]
    last = np.append(sorted_ids[1:] != sorted_ids[:-1], np.full(min(1, len(scores)), True))
    return np.sort(order[last])
