"""Attention over packed rows by JAX's splash kernel, for TPUs.

The kernel is given what each token sees as a mask that is data. It leaves out every block of a row
in which nothing is seen: other groups, other responses, what is beyond a window. It is the
kernel's own backward pass that is differentiated.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes, make_splash_mha
from jaxtyping import Array, Bool, Float

LANES = 128  # a block's sides are multiples of it
LONGEST_BLOCK = 512  # tokens; longer ones waste more at the borders of what is seen
# Bytes of the masks of rows that are served at once, 4 for each pair of tokens as the kernel wants
# them: so few that they stay within the chip, and that the tables of blocks to visit fit its scalar
# memory of 1 MiB. More rows go one by one: a few at a time cost more copies than either.
ROOM = 32 * 2**20
KEPT = "splash"  # the name of what the backward pass needs of the forward pass


def prepare(seen: Bool[Array, "n t t"], *, softcap: float | None, interpret: bool) -> Any:
    """A kernel for each row, stacked: which of its blocks are visited, and the mask of each.

    Rows are filled up to whole blocks with tokens that see themselves only.

    Args:
        softcap: c in c * tanh(x / c), of the scores.
        interpret: runs the kernel's steps as plain XLA, on any device.
    """
    size, length = _blocks(seen.shape[1])
    beyond = length - seen.shape[1]
    seen = jnp.pad(seen, ((0, 0), (0, beyond), (0, beyond))) | jnp.eye(length, dtype=bool)[None]
    sizes = BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_q_dq=size,
        block_kv_dq=size,
    )

    def kernel(seen: Bool[Array, "t t"]) -> Any:
        made = make_splash_mha(
            seen[None],  # one mask for all heads
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            attn_logits_soft_cap=softcap,
            residual_checkpoint_name=KEPT,
            interpret=interpret,
        )
        # A field that chooses the name of a scope: it was made an array, which no trace can ask.
        made.fwd_mask_info = made.fwd_mask_info._replace(is_dynamic_mask=None)
        return made

    return jax.vmap(kernel)(seen)


def attend(
    query: Float[Array, "n t h e"],
    key: Float[Array, "n t g e"],
    value: Float[Array, "n t g e"],
    kernels: Any,
    *,
    scale: float,
) -> Float[Array, "n t h e"]:
    """The attended values of rows, by the kernels that `prepare` made for them.

    A kernel that is mapped over what it is to visit becomes a loop, which copies every array's part
    for each turn. So rows whose masks have `ROOM` lie end to end, as one long row.
    """
    rows, tokens = query.shape[:2]
    length = _blocks(tokens)[1]
    joined = rows if 4 * rows * length**2 <= ROOM else 1

    def end_to_end(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, length - tokens), (0, 0), (0, 0)))
        return x.reshape(-1, joined * length, *x.shape[2:]).swapaxes(1, 2)

    arrays = end_to_end(query * scale), end_to_end(key), end_to_end(value)
    turns = jax.tree.map(lambda x: x.reshape(-1, joined, *x.shape[1:]), kernels)
    out = jax.vmap(lambda kernels, *arrays: _as_one(kernels)(*arrays))(turns, *arrays)
    return out.swapaxes(1, 2).reshape(rows, length, *query.shape[2:])[:, :tokens]


def _as_one(kernels: Any) -> Any:
    """The kernel of rows that lie end to end: each block of one meets those of its own row.

    The kernels walk along one side of a table of blocks and look up where to find the other, so
    the table is as long as all rows, but no wider than one of them.

    Args:
        kernels: of `prepare`, of these rows.
    """

    def join(info: Any, *, keys: bool) -> Any:
        rows, _, queries_of_row, keys_of_row = info.block_mask.shape
        first = jnp.arange(rows, dtype=jnp.int32)[:, None, None]

        def table(x: Array, step: int) -> Array:
            x = x[:, 0] + first * step
            if keys:
                return x.swapaxes(0, 1).reshape(1, queries_of_row, -1)
            return x.reshape(1, -1, keys_of_row)

        return info._replace(
            data_next=table(info.data_next, queries_of_row if keys else keys_of_row),
            mask_next=table(info.mask_next, queries_of_row * keys_of_row),
            block_mask=table(info.block_mask, 0).astype(info.block_mask.dtype),
            is_dynamic_mask=None,
        )

    return type(kernels)(
        join(kernels.fwd_mask_info, keys=False),
        join(kernels.dq_mask_info, keys=False),
        join(kernels.dkv_mask_info, keys=True),
        **kernels.kwargs,
    )


def _blocks(tokens: int) -> tuple[int, int]:
    """The side of a block, and the length of a row in whole blocks."""
    count = -(-tokens // LONGEST_BLOCK)
    size = -(-tokens // (count * LANES)) * LANES
    return size, count * size
