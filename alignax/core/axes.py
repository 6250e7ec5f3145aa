"""Where arrays lie on a mesh, said by the name of their axes.

Parameters name their logical axes where they are made (`models/`), and `train.sharding` maps them
to mesh axes. Activations need few statements: rows are split over every data-parallel axis, their
tokens over `sequence`, and within attention heads are.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
from jax.sharding import PartitionSpec

ROW_AXES = ("data", "fsdp")  # the mesh axes that rows and prompts are split over
SEQUENCE_AXIS = "sequence"  # the mesh axis that the tokens of a row are split over
HEAD_AXIS = "tensor"  # the mesh axis that heads are split over, where it divides them

T = TypeVar("T", bound=jax.Array)


def split_rows(x: T) -> T:
    """States that the leading axis is split over the data-parallel axes of the mesh in use.

    Does nothing where no mesh is set. Without it the partitioner may spread activations along the
    axis that a sharded weight suggests, and gather them again in every layer.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name in ROW_AXES if name in mesh.axis_names)
    if not axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def split_tokens(x: T) -> T:
    """States that axis 0, of rows, and axis 1, of their tokens, are split over the mesh in use.

    So it is for all that works on one token at a time. Tokens that `sequence` does not divide stay
    with their row. Does nothing where no mesh is set.
    """
    if sequence_shards() == 1 or x.shape[1] % sequence_shards():
        return split_rows(x)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(ROW_AXES, SEQUENCE_AXIS))


def over_heads(attend: Callable[..., T]) -> Callable[..., T]:
    """Attention over arrays [n t h e] whose tokens are split, with heads split in their place.

    Every token meets others there, so each device gives its tokens of all heads for all tokens of
    its heads, and gets its own back. All is said twice, on either side, because it holds for
    gradients too. Does nothing where tokens are not split, or heads cannot be.
    """

    def attended(*arrays: T) -> T:
        if sequence_shards() == 1 or any(x.shape[2] % _size(*head_axes()) for x in arrays):
            return attend(*arrays)
        put = jax.lax.with_sharding_constraint
        tokens = PartitionSpec(ROW_AXES, SEQUENCE_AXIS, _present(HEAD_AXIS))
        heads = PartitionSpec(ROW_AXES, None, head_axes())
        return put(put(attend(*(put(put(x, tokens), heads) for x in arrays)), heads), tokens)

    return attended


def split_all(x: T) -> T:
    """States that the leading axis is split over the axes of rows and of their tokens.

    Where these do not divide it, over those of rows alone.
    """
    if sequence_shards() == 1 or x.shape[0] % token_shards():
        return split_rows(x)
    return jax.lax.with_sharding_constraint(x, PartitionSpec((*ROW_AXES, SEQUENCE_AXIS)))


def row_shards() -> int:
    """How many parts rows are split into on the mesh in use; 1 where none is set."""
    return _size(*ROW_AXES)


def sequence_shards() -> int:
    """How many parts the tokens of a row are split into on the mesh in use."""
    return _size(SEQUENCE_AXIS)


def token_shards() -> int:
    """How many parts all tokens are split into on the mesh in use."""
    return _size(*ROW_AXES, SEQUENCE_AXIS)


def head_axes() -> tuple[str, ...]:
    """The axes of the mesh in use that heads are split over within attention."""
    return _present(HEAD_AXIS, SEQUENCE_AXIS)


def _present(*names: str) -> tuple[str, ...]:
    known = jax.sharding.get_abstract_mesh().axis_names
    return tuple(name for name in names if name in known)


def _size(*names: str) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in names if name in mesh.axis_names)


def split_if_even(x: T) -> T:
    """`split_rows` for arrays whose leading axis the mesh divides; others stay as they are."""
    return x if x.ndim == 0 or x.shape[0] % row_shards() else split_rows(x)


def gathered_vocabulary(x: T) -> T:
    """States that a matrix of one row a token of the vocabulary is whole but along these.

    They stay split over `tensor` where it divides them. Said before a loop, it is one gather for
    all its turns. Does nothing where no mesh is set.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.axis_names:
        return x
    split = HEAD_AXIS in mesh.axis_names and x.shape[0] % mesh.shape[HEAD_AXIS] == 0
    return jax.lax.with_sharding_constraint(x, PartitionSpec(HEAD_AXIS if split else None))


def whole(x: T) -> T:
    """States that every device holds all of x: gathered for use, scattered again for its gradient.

    For tables that are looked up by row: the partitioner has no cheap way to look up a table that
    is split along its rows or its width. Does nothing where no mesh is set.
    """
    if not jax.sharding.get_abstract_mesh().axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def one_gpu() -> bool:
    """Whether all that is computed lies on one of NVIDIA's GPUs."""
    return jax.sharding.get_abstract_mesh().size <= 1 and device_kind().startswith("NVIDIA")


def device_kind() -> str:
    """What JAX calls the devices of the mesh in use, or else the first device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device or jax.devices()[0]).device_kind
