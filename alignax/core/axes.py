"""Where arrays lie on a mesh, said by the name of their axes.

Parameters name their logical axes where they are made (`models/`), and `train.sharding` maps them
to mesh axes. Activations need one statement only: rows are split over every data-parallel axis.
"""

import math
from typing import TypeVar

import jax
from jax.sharding import PartitionSpec

ROW_AXES = ("data", "fsdp")  # the mesh axes that rows and prompts are split over
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


def row_shards() -> int:
    """How many parts rows are split into on the mesh in use; 1 where none is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in ROW_AXES if name in mesh.axis_names)


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
