"""Frozen matrices in few bits (QLoRA, arXiv:2305.14314), by the package `qwix`.

Only what is not trained is held so: a matrix is turned into numbers again where a product needs it,
for one layer at a time, and in the backward pass once more. Nothing of it is kept between the two.
"""

import dataclasses
import importlib
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.errors import BadInput
from alignax.core.types import Params
from alignax.models.kernels import Kernel, Product, at
from alignax.models.lora import Adapter

Held = Literal["float32", "bfloat16", "int8", "nf4"]
BLOCK = 64  # inputs that share a scale, at most, as QLoRA has it; of the 4-bit numbers only


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantised(Kernel):
    """A matrix as small numbers and their scales.

    Fields:
        array: a `qwix.QArray`, stacked over layers.
    """

    array: Any

    def times(self, x: Float[Array, "..."], axes: int, product: Product) -> Float[Array, "..."]:
        """x times the matrix; what is kept for the backward pass is x and the small numbers."""
        numbers = jax.checkpoint(lambda x, array: product(axes, x, _numbers(array)))
        return numbers(x, self.array)

    def whole(self) -> Float[Array, "..."]:
        """The matrix, float32."""
        return _numbers(self.array)


def hold(base: Params, adapter: Adapter, held: Held) -> Params:
    """A base with the matrices of its blocks in few bits; all else as it is.

    `int8` has a scale for every output, and `nf4` one for every 64 inputs of an output. The
    arrays of `base` that are turned are let go one by one.

    Args:
        base: consumed, its dictionaries emptied of what is turned.
        adapter: knows which arrays are matrices of a block.
        held: `int8` or `nf4`; of other kinds nothing is turned.

    Raises:
        BadInput: the package is not installed.
    """
    if held in ("float32", "bfloat16"):
        return base
    qwix = _qwix()
    for path, contract in adapter.linears.items():
        layer = at(base["layers"], path)
        kernel = layer.pop("kernel")
        inputs, outputs = range(1, 1 + contract), range(1 + contract, kernel.ndim)
        last = inputs[-1]
        if held == "int8":
            how = {"qtype": jnp.int8, "channelwise_axes": (0, *outputs)}
        else:
            how = {
                "qtype": "nf4",
                "channelwise_axes": (0, *inputs[:-1], *outputs),
                "tiled_axes": {last: _block(kernel.shape[last])},
            }

        def turn(kernel: Array, how: Any = how) -> Any:
            return qwix.quantize(kernel.astype(jnp.float32), **how)

        layer["kernel"] = Quantised(array=jax.jit(turn)(kernel))
    return base


def _block(size: int) -> int:
    """The largest divisor of a size that is at most `BLOCK`."""
    return max(x for x in range(1, BLOCK + 1) if size % x == 0)


def _numbers(array: Any) -> Array:
    return _qwix().dequantize(array)


def _qwix() -> Any:
    try:
        return importlib.import_module("qwix")
    except ImportError as error:
        raise BadInput(
            "the package qwix, for a base of few bits",
            "no such package",
            "pip install -e '.[quantised]' in the clone, or hold the base in bfloat16.",
            where="adapter.base",
        ) from error


def stored_bytes(params: Params) -> int:
    """What the arrays take on a device: two numbers of 4 bits share a byte."""
    return sum(
        math.ceil(x.size / 2) if x.dtype in (jnp.uint4, jnp.int4) else x.size * x.dtype.itemsize
        for x in jax.tree.leaves(params)
    )
