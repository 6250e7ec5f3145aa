"""The arithmetic of one update, counted by hand: products of matrices, two operations a term.

What is not a product (norms, softmax, the optimiser) is left out; of these models it is one or two
operations in a hundred. XLA's own count of the compiled step stands beside it. XLA counts the body
of a loop once, and the layers are a loop: so it is asked of the same step with one layer.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.shapes import Model, Shape

RANK = 16  # of an adapter


class Work(NamedTuple):
    """What goes through the model in one update.

    Fields:
        tokens: through the blocks. pairs: of a query and a key whose product is taken.
        scored: tokens that meet the vocabulary.
    """

    tokens: int
    pairs: int
    scored: int


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
            MLP, whose result no gradient needs.
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
        again=(whole + low_rank + attention - last) * recomputed,
        reference=(whole + attention + head) * reference,
    )


def in_rows(rows: int, row_length: int, scored: int, reach: Sequence[int], block: int) -> Work:
    """Of packed rows, padding included: a block of queries meets all keys that it may reach."""
    pairs = 0
    for index, start in enumerate(range(0, row_length, block)):
        end = min(start + block, row_length)
        pairs += (end - start) * (end - max(0, start - reach[index]))
    return Work(rows * row_length, rows * pairs, scored)


def concatenated(shape: Shape, *, scored: str) -> Work:
    """Of every response behind a copy of its prompt, in a full box of the longest of the step.

    Attention meets the whole square, as kernels for CPUs do under a mask.

    Args:
        scored: "all" positions meet the vocabulary, those of the "responses", or "none".
    """
    lengths = shape.lengths(shape.groups)
    longest = int((lengths[:, :1] + lengths[:, 1:]).max())
    texts = shape.groups * shape.responses
    counts = {"all": texts * longest, "responses": int(lengths[:, 1:].sum()), "none": 0}
    return Work(texts * longest, texts * longest**2, counts[scored])


def machine_rate(size: int = 2048, times: int = 7) -> float:
    """Operations a second of one large product of float32 matrices; the fastest of a few."""
    import jax
    import jax.numpy as jnp

    square, product = jnp.ones((size, size)), jax.jit(jnp.matmul)
    product(square, square).block_until_ready()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        product(square, square).block_until_ready()
        taken.append(time.perf_counter() - begin)
    return 2 * size**3 / min(taken)
