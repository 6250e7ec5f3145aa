"""What is left out of an update is drawn by a key of its own for each micro-batch."""

import jax
import jax.numpy as jnp
import optax

from alignax.core.types import Outputs
from alignax.data.pipeline import build_step
from alignax.data.plan import make_plan
from alignax.methods import SFT
from alignax.train.step import init_state, make_step
from tests.tiny_batch import random_table

TABLE = random_table(8, responses=1)


def keys_of(seed):
    """The keys that `join` is given in two updates of two micro-batches each."""
    keys, plan = [], make_plan(TABLE.lengths, batch_size=4, accumulation=2, num_steps=2, align=8)

    def join(params, frozen, key):
        jax.debug.callback(lambda key: keys.append(tuple(key.tolist())), jax.random.key_data(key))
        return params

    def model(params, batch, layout):
        return Outputs(logprobs=jnp.where(batch.mask, params, 0.0))

    optimizer = optax.sgd(0.1)
    state = init_state(jnp.float32(-1.0), optimizer)
    step = make_step(SFT(), model, optimizer, join=join, seed=seed)
    for i in range(len(plan)):
        state, _ = step(state, *build_step(TABLE, plan, i, {}))
    jax.effects_barrier()
    return keys


def test_keys_differ_by_update_micro_batch_and_seed_and_by_nothing_else():
    keys = keys_of(0)
    assert len(set(keys)) == 4
    assert len(set(keys) | set(keys_of(1))) == 8
    assert sorted(keys_of(0)) == sorted(keys)
