"""A state with every kind of leaf, saved and restored: what the tests of checkpoints share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

from alignax.core.types import TrainState
from alignax.train.checkpoint import Checkpoints

POSITION, EXPERIMENT = {"next_index": 64, "epoch": 1}, {"method": "dpo", "beta": 0.1}


def mesh(shape, names):
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def make_state(step, width=16):
    """Every kind of leaf that a run has, and values that tell one step from another."""
    keys = jax.random.split(jax.random.key(step), 3)
    params = {
        "embed": jax.random.normal(keys[0], (32, width), jnp.bfloat16),
        "layers": {"up": jax.random.normal(keys[1], (2, width, 24)), "scale": jnp.ones(width)},
        "table": jax.random.randint(keys[2], (7,), -(2**31), 2**31 - 1),
        "nothing": {},
    }
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1e-3, 0.0, 10))
    )
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), tx.init(params))
    return TrainState(jnp.int32(step), params, opt_state)


def abstract(state, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state
    )


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(directory, *steps, keep=2):
    with Checkpoints(directory, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), position=POSITION, experiment=EXPERIMENT)


def restore(directory, step=0):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(abstract(make_state(step)))


def array_file(checkpoint):
    """The file that holds the arrays: the biggest."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)
