"""How the layers of a decoder are gone through: one compiled for all, or each written out.

A scan compiles one layer and takes its weights, and what the backward pass needs, out of stacks
and puts gradients into them: copies, a tenth of an update's time on a GPU. Written out there are
none, and compiling takes longer: 16 s for 6 where a decoder has 16 layers.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignax.models import cudnn, splash
from alignax.models.config import LayerKind
from alignax.models.parts import PRODUCT

Remat = Literal["none", "attention", "elementwise", "block"]
EVERYTHING = 2**30  # a window that no text is longer than
# (stream, block, what turns queries and keys, window) -> (stream, what is kept of the layer)
Layer = Callable[[Array, Any, Any, Any], tuple[Array, Any]]


def run(
    layer: Layer,
    x: Array,
    blocks: Any,
    kinds: Sequence[LayerKind],
    angles: dict[Any, Any],
    *,
    layers: int,
    scanned: bool,
    remat: Remat,
) -> tuple[Array, Any]:
    """The stream after all layers, and what each keeps, on an axis before all others.

    Args:
        layer: what one does. x: the stream before the first.
        blocks: the modules, whose arrays have an axis of layers before all others.
        kinds: one for every layer, or a single one for all. layers: how many there are.
        scanned: one is compiled for all; else each is written out.
        angles: what turns queries and keys, by `LayerKind.rope`.
        remat: what the backward pass computes again, as `transformer.Decoder` has it.
    """

    def of_kind(kind: LayerKind) -> Callable[..., Any]:
        return lambda x, block: layer(x, block, angles[kind.rope], kind.window)

    def of_any_kind(x: Array, inputs: Any) -> Any:
        block, rope, window = inputs
        first, *others = angles.values()
        if others:
            first = jax.tree.map(lambda *tables: jnp.stack(tables)[rope], first, *others)
        return layer(x, block, first, window)

    if not scanned:
        kinds = kinds if len(kinds) == layers else [kinds[0]] * layers
        return _one_by_one([_saving(of_kind(kind), remat) for kind in kinds], x, blocks)
    if len(kinds) == 1:
        return jax.lax.scan(_saving(of_kind(kinds[0]), remat), x, blocks)
    # One layer is compiled for all, and told which kind it is.
    ropes = jnp.array([list(angles).index(kind.rope) for kind in kinds])
    windows = jnp.array([kind.window or EVERYTHING for kind in kinds])
    return jax.lax.scan(_saving(of_any_kind, remat), x, (blocks, ropes, windows))


def _saving(layer: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    if remat == "block":
        return jax.checkpoint(layer)
    if remat == "elementwise":
        policy = jax.checkpoint_policies.save_only_these_names(PRODUCT, splash.KEPT, cudnn.KEPT)
        return jax.checkpoint(layer, policy=policy)
    return layer


def _one_by_one(layers: Sequence[Callable[..., Any]], x: Array, blocks: Any) -> tuple[Array, Any]:
    """As a scan, written out. Gradients of what is stacked are put together once."""
    leaves, tree = jax.tree.flatten(blocks)
    parts = [jax.lax.split(leaf, (1,) * len(layers)) for leaf in leaves]
    kept = []
    for layer, *own in zip(layers, *parts, strict=True):
        x, found = layer(x, tree.unflatten([part[0] for part in own]))
        kept.append(found)
    return x, jax.tree.map(lambda *found: jnp.stack(found), *kept)
