"""Rows taken by index, with a gradient that has the same bits each time, on GPUs too.

The gradient of a gather adds up rows that were taken several times. GPUs do that in the order in
which threads come by. XLA's own remedy sorts every number of every row. On one GPU the rows are
sorted here, and neighbours of one index summed as a tree, in float32; what is written is then
written once. On several, where rows lie apart, XLA's remedy serves (`train.compilations`), and
other devices add in a fixed order anyway.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from alignax.core.axes import one_gpu


def take_rows(x: Float[Array, "n d"], index: Int[Array, "*m"]) -> Float[Array, "*m d"]:
    """x[index]."""
    if not one_gpu():
        return x[index]
    return _take(x, index.ravel()).reshape(*index.shape, x.shape[1])


@jax.custom_vjp
def _take(x, index):
    return x[index]


def _forward(x, index):
    # The shape alone is needed, and a residual must be an array: one that takes no room.
    return x[index], (index, jnp.zeros((x.shape[0], 0), x.dtype))


def _backward(saved, gradient):
    index, like = saved
    return summed_rows(gradient, index, like.shape[0]).astype(like.dtype), None


_take.defvjp(_forward, _backward)


def summed_rows(
    rows: Float[Array, "m d"], index: Int[Array, " m"], size: int
) -> Float[Array, "size d"]:
    """The sum of the rows of each index in [0, size); float32.

    Holds the rows in float32 a few times over while it works.
    """
    order = jnp.argsort(index, stable=True)
    index, rows = index[order], rows[order].astype(jnp.float32)
    begins = jnp.pad(index[1:] != index[:-1], (1, 0), constant_values=True)[:, None]

    def join(left, right):
        (begun, before), (begins, after) = left, right
        return begun | begins, jnp.where(begins, after, before + after)

    _, sums = jax.lax.associative_scan(join, (begins, rows))
    last = jnp.pad(begins[1:, 0], (0, 1), constant_values=True)
    # Beyond the end, each at a place of its own: dropped.
    place = jnp.where(last, index, size + jnp.arange(len(index), dtype=index.dtype))
    zeros = jnp.zeros((size, rows.shape[1]), jnp.float32)
    return zeros.at[place].set(sums, mode="drop", unique_indices=True)
