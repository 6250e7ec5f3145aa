"""Products of a few rows with large matrices, as kernels for NVIDIA's GPUs, and what is between.

A decoding step reads every matrix once for some sixty rows, and is bound by that reading and by how
many kernels it starts: with XLA's products a layer takes eleven. Here it takes seven. A product
whose result is narrow is cut along what it sums over, so that all processors read; its parts are
added by whoever reads them next (`added`, or `decoding.attend_sums`), in a fixed order. The
products of an MLP that are multiplied with each other are one kernel with its activation.

Pallas's by way of Triton, as `decoding` is, and for the same devices.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from alignax.core.axes import device_kind

triton: Any
try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX says since 0.11 that it will go; XLA's kernels then serve
    triton = None

FEWEST_ROWS, MOST_ROWS = 16, 128  # of a product; those between are filled up to a power of two
BLOCK = 64  # rows and columns of a matrix that are read at a time; widths are multiples of it
PROGRAMS = 120  # that keep an A100's or H100's processors reading
MOST_PARTS = 16
WARPS, STAGES = 4, 4  # stages: blocks of matrices on their way at a time
Activation = Callable[[Array], Array]


def fits(rows: int, *widths: int) -> bool:
    """Whether the kernels take so many rows, and arrays of these widths."""
    return 0 < rows <= MOST_ROWS and not any(width % BLOCK for width in widths)


def parts(out: int, summed: int) -> int:
    """Into how many a product is cut along what it sums over: the fewest that keep all busy."""
    blocks, columns = summed // BLOCK, out // BLOCK
    cuts = [n for n in range(1, MOST_PARTS + 1) if blocks % n == 0]
    return next((n for n in cuts if n * columns >= PROGRAMS), cuts[-1])


def product(x: Float[Array, "m i"], matrix: Float[Array, "i n"]) -> Float[Array, "p m n"]:
    """x times the matrix, in float32, in parts that are still to be added up.

    Args:
        x: as many rows as `fits` takes, as it does i and n.
    """
    rows, summed = x.shape
    count = parts(matrix.shape[1], summed)
    each = summed // count // BLOCK

    def kernel(x: Any, matrix: Any, out: Any) -> None:
        column, part = pl.ds(pl.program_id(0) * BLOCK, BLOCK), pl.program_id(1)

        def add(n: Array, total: Array) -> Array:
            places = pl.ds((part * each + n) * BLOCK, BLOCK)
            return total + dot(_rows(x, places, rows), triton.load(matrix.at[places, column]))

        total = jax.lax.fori_loop(0, each, add, jnp.zeros((_filled_up(rows), BLOCK), jnp.float32))
        triton.store(out.at[part, _all(rows), column], total, **_there(rows))

    shape = jax.ShapeDtypeStruct((count, rows, matrix.shape[1]), jnp.float32)
    grid = (matrix.shape[1] // BLOCK, count)
    out = _whole(count, _filled_up(rows), matrix.shape[1])
    call = _call(kernel, grid, shape, out, "product_in_parts", rows)
    return call(x, matrix)


def gated(
    x: Float[Array, "m i"], matrix: Float[Array, "i two n"], activation: Activation
) -> Float[Array, "m n"]:
    """activation(x times one side) times (x times the other), in the dtype of x.

    Args:
        x: as many rows as `fits` takes, as it does i and n.
        activation: of `parts.ACTIVATIONS`, but for "gelu": Pallas has no erf for Triton.
    """
    rows, (summed, _, out) = len(x), matrix.shape
    width = BLOCK if out // BLOCK >= PROGRAMS // 2 else BLOCK // 2

    def kernel(x: Any, matrix: Any, result: Any) -> None:
        column = pl.program_id(0) * width
        sides = pl.ds(column, width), pl.ds(out + column, width)

        def add(n: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
            places = pl.ds(n * BLOCK, BLOCK)
            block = _rows(x, places, rows)
            return tuple(
                total + dot(block, triton.load(matrix.at[places, side]))
                for total, side in zip(totals, sides, strict=True)
            )

        zeros = jnp.zeros((_filled_up(rows), width), jnp.float32)
        # Rounded where the products' results would be.
        gate, up = (
            total.astype(result.dtype).astype(jnp.float32)
            for total in jax.lax.fori_loop(0, summed // BLOCK, add, (zeros, zeros))
        )
        found = (activation(gate) * up).astype(result.dtype)
        triton.store(result.at[_all(rows), sides[0]], found, **_there(rows))

    shape = jax.ShapeDtypeStruct((rows, out), x.dtype)
    whole = _whole(_filled_up(rows), out)
    call = _call(kernel, (out // width,), shape, whole, "gated_product", rows)
    return call(x, matrix.reshape(summed, 2 * out))


def added(
    pieces: Float[Array, "p m d"],
    stream: Float[Array, "m d"],
    scale: Float[Array, " d"],
    eps: float,
) -> tuple[Float[Array, "m d"], Float[Array, "m d"]]:
    """The stream with a product's parts added, and that over its root mean square, scaled.

    Args:
        pieces: of a `product`. eps: added to the mean square, inside the root.
    """
    count, rows, width = pieces.shape
    whole = pl.next_power_of_2(width)

    def kernel(pieces: Any, stream: Any, scale: Any, out: Any, normed: Any) -> None:
        row, places = pl.program_id(0), pl.ds(0, whole)
        inside = {} if whole == width else {"mask": jnp.arange(whole) < width}
        load = functools.partial(triton.load, **inside, **({"other": 0} if inside else {}))
        total = load(pieces.at[row, places])
        for n in range(1, count):
            total += load(pieces.at[n * rows + row, places])
        new = load(stream.at[row, places]) + total.astype(out.dtype)
        triton.store(out.at[row, places], new, **inside)
        wide = new.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.sum(wide * wide) / width + eps)
        found = wide.astype(out.dtype) * load(scale.at[places]).astype(out.dtype)
        triton.store(normed.at[row, places], found, **inside)

    shape = jax.ShapeDtypeStruct(stream.shape, stream.dtype)
    row = _whole(rows, whole)
    return pl.pallas_call(
        kernel,
        grid=(rows,),
        in_specs=[_whole(count * rows, whole), row, _whole(whole)],
        out_specs=(row, row),
        out_shape=(shape, shape),
        **_how("added_and_normed", WARPS, 1),
    )(pieces.reshape(count * rows, width), stream, scale)


def _call(
    kernel: Any, grid: tuple[int, ...], shape: Any, out: pl.BlockSpec, name: str, rows: int
) -> Callable[[Array, Array], Array]:
    # Blocks on their way are held in shared memory, of which some GPUs have 99 KiB.
    warps, stages = (8, STAGES - 1) if _filled_up(rows) > 64 else (WARPS, STAGES)

    def call(x: Array, matrix: Array) -> Array:
        specs = [_whole(_filled_up(rows), x.shape[1]), _whole(*matrix.shape)]
        how = _how(name, warps, stages)
        run = pl.pallas_call(
            kernel, grid=grid, in_specs=specs, out_specs=out, out_shape=shape, **how
        )
        return run(x, matrix)

    return call


def _how(name: str, warps: int, stages: int) -> dict[str, Any]:
    return {
        "compiler_params": triton and triton.CompilerParams(num_warps=warps, num_stages=stages),
        "interpret": not device_kind().startswith("NVIDIA"),
        "name": name,
    }


def _whole(*block: int) -> pl.BlockSpec:
    """All of an array, filled up to what is read at a time."""
    return pl.BlockSpec(block, lambda *_: (0,) * len(block))


def _filled_up(rows: int) -> int:
    return max(FEWEST_ROWS, pl.next_power_of_2(rows))


def _all(rows: int) -> Any:
    return pl.ds(0, _filled_up(rows))


def _there(rows: int) -> dict[str, Any]:
    """What keeps to the rows that are there, for a load or a store."""
    filled = _filled_up(rows)
    return {} if filled == rows else {"mask": (jnp.arange(filled) < rows)[:, None]}


def _rows(x: Any, places: Any, rows: int) -> Array:
    there = _there(rows)
    return triton.load(x.at[_all(rows), places], **there, **({"other": 0} if there else {}))


def dot(x: Float[Array, "m i"], y: Float[Array, "i n"]) -> Float[Array, "m n"]:
    """In a kernel: their product in float32, of float32 in full."""
    how: Any = {"precision": jax.lax.Precision.HIGHEST} if x.dtype == jnp.float32 else {}
    return jnp.dot(x, y, preferred_element_type=jnp.float32, **how)
