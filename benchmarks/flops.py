"""The arithmetic of one update, counted by hand: products of matrices, two operations a term.

What is not a product (norms, softmax, the optimiser) is left out; of these models it is one or two
operations in a hundred. XLA's own count of the compiled step stands beside it. XLA counts the body
of a loop once, and the layers are a loop: so it is asked of the same step with one layer.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alignax.data.plan import Lengths
from benchmarks.shapes import Model, Shape

RANK = 16  # of an adapter
SIZES = {"cpu": 2048, "gpu": 8192}  # of a square matrix that a device multiplies at its best
COPIED = {"cpu": 2**29, "gpu": 2**32}  # bytes, many times what caches hold


class Work(NamedTuple):
    """What goes through the model in one update.

    Fields:
        tokens: through the blocks. pairs: of a query and a key whose product is taken.
        scored: tokens that meet the vocabulary.
        chunks: in which they meet it. With more than one no logits are kept, and the backward pass
            computes them again.

    Means over several steps are no whole numbers.
    """

    tokens: float
    pairs: float
    scored: float
    chunks: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operations:
    """Of one update.

    Fields:
        blocks: matrices of the blocks, forward. attention: its two products, forward.
        head: the vocabulary's matrix, forward. backward: of these three.
        again: what is computed a second time in place of being kept.
        reference: forward passes of the reference.
    """

    blocks: float
    attention: float
    head: float
    backward: float
    again: float
    reference: float

    @property
    def total(self) -> float:
        """All together."""
        return sum(dataclasses.astuple(self))


def operations(
    model: Model, work: Work, *, recomputed: bool, reference: bool, adapter: bool = False
) -> Operations:
    """Counts an update.

    Args:
        recomputed: the backward pass computes each block again, but for the last matrix of its
            MLP, whose result no gradient needs. Logits in chunks are computed again in any case.
        reference: a reference model makes a forward pass in the step.
        adapter: low-rank matrices are trained in place of the blocks' own, which need no gradients
            of theirs.
    """
    layer_tokens = 2.0 * work.tokens * model.layers
    whole = layer_tokens * model.block_params
    low_rank = layer_tokens * RANK * model.block_sides * adapter
    attention = 4.0 * work.pairs * model.layers * model.width
    head = 2.0 * work.scored * model.width * model.vocab
    last = layer_tokens * model.width * model.mlp_width
    if adapter:
        last += layer_tokens * RANK * model.width
    return Operations(
        blocks=whole + low_rank,
        attention=attention,
        head=head,
        backward=(2 - adapter) * (whole + head) + 2 * (low_rank + attention),
        again=(whole + low_rank + attention - last) * recomputed + head * (work.chunks > 1),
        reference=(whole + attention + head) * reference,
    )


def in_rows(
    rows: int, row_length: int, scored: int, reach: Sequence[int], block: int, chunks: int = 1
) -> Work:
    """Of packed rows, padding included: a block of queries meets all keys that it may reach.

    All steps of a plan have one shape, so this is every step, and their mean.
    """
    pairs = 0
    for index, start in enumerate(range(0, row_length, block)):
        end = min(start + block, row_length)
        pairs += (end - start) * (end - max(0, start - reach[index]))
    return Work(rows * row_length, rows * pairs, scored, chunks)


def seen(lengths: Lengths) -> float:
    """Pairs of a query and a key that it sees, of all groups: of a prompt, and of each response."""
    prompt, response = lengths.prompt.astype(float), lengths.response.astype(float)
    own = (prompt**2).sum() / 2 + (response**2).sum() / 2
    return float(own + (prompt[:, None] * response).sum())


def vocabulary_chunks(scored: int, vocab: int, kept_bytes: int) -> int:
    """Chunks in which the tokens of a device meet the vocabulary, as `core.logprobs` makes them.

    Args:
        kept_bytes: the float32 logits that may exist at once.
    """
    return -(-scored // max(1, kept_bytes // (4 * vocab)))


def concatenated(shape: Shape, *, scored: str, steps: int) -> Work:
    """Of every response behind a copy of its prompt, in a full box of the longest of its step.

    The mean over this many steps from the first on: all that the run has, which are those that the
    rows of this library are planned for. Attention meets the whole square, as kernels for CPUs do
    under a mask.

    Args:
        scored: "all" positions meet the vocabulary, those of the "responses", or "none".
    """
    lengths = shape.lengths(steps * shape.groups).reshape(steps, shape.groups, -1)
    longest = (lengths[..., :1] + lengths[..., 1:]).max((1, 2))
    texts = shape.groups * shape.responses
    tokens = texts * float(longest.mean())
    responses = float(lengths[..., 1:].sum()) / steps
    counts = {"all": tokens, "responses": responses, "none": 0.0}
    return Work(tokens, texts * float((longest**2).mean()), counts[scored])


def machine_rate(platform: str = "cpu", dtype: str = "float32") -> float:
    """Operations a second of one large product of matrices; the fastest of a few."""
    import jax
    import jax.numpy as jnp

    size = SIZES[platform]
    square = jnp.ones((size, size), dtype)
    return 2 * size**3 / fastest(jax.jit(jnp.matmul), square, square)


def bandwidth(platform: str = "cpu") -> float:
    """Bytes a second of a device's memory; the fastest of a few.

    The faster of two: a large array copied onto itself, with one added, so read and written, and
    its sum, read alone. A copy to a new place would time the system's making of new pages as well.
    """
    import jax
    import jax.numpy as jnp

    held = [jnp.ones((COPIED[platform] // 4,))]
    size, add = held[0].nbytes, jax.jit(lambda x: x + 1, donate_argnums=0)

    def copy() -> Any:
        held[0] = add(held[0])
        return held[0]

    return max(2 * size / fastest(copy), size / fastest(jax.jit(jnp.sum), held[0]))


def fastest(run: Callable[..., Any], *arguments: Any, times: int = 7) -> float:
    """The least seconds of a few calls, after one that compiles."""
    run(*arguments).block_until_ready()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        run(*arguments).block_until_ready()
        taken.append(time.perf_counter() - begin)
    return min(taken)
