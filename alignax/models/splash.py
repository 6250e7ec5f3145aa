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
    """The attended values of rows, by the kernels that `prepare` made for them."""
    tokens = query.shape[1]
    beyond = _blocks(tokens)[1] - tokens

    def heads_first(x: Array) -> Array:
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, beyond), (0, 0)))

    arrays = heads_first(query * scale), heads_first(key), heads_first(value)
    out = jax.vmap(lambda kernel, *arrays: kernel(*arrays))(kernels, *arrays)
    return out.swapaxes(1, 2)[:, :tokens]


def _blocks(tokens: int) -> tuple[int, int]:
    """The side of a block, and the length of a row in whole blocks."""
    count = -(-tokens // LONGEST_BLOCK)
    size = -(-tokens // (count * LANES)) * LANES
    return size, count * size
