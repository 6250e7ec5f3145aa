"""Parts of the update by themselves: keys of its draws, and how far the policy has moved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignax.core.types import Outputs
from alignax.data.pipeline import build_step
from alignax.data.plan import make_plan
from alignax.methods import SFT
from alignax.train.step import evaluate, init_state, make_step
from tests.sampled import batch_of
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


def test_how_far_the_policy_has_moved_is_a_mean_over_scored_tokens_of_valid_responses():
    # Off by 0.5, 0.25 and 0 nats of what drew, in the first prompt's only valid response; by 1 in
    # the second's two of one token. Of the reference twice as much. Off the mask and in what is
    # not valid it is 9, and the third prompt is not there.
    apart = np.full((3, 2, 3), 9.0)
    apart[0, 0], apart[1, :, 0] = [0.5, -0.25, 0.0], [1.0, -1.0]
    batch = batch_of(
        np.zeros((3, 2)),
        [[3, 2], [1, 1], [1, 1]],
        valid=[[True, False], [True, True], [False, False]],
        old_logprobs=apart - 1.0,
        ref_logprobs=2 * apart - 1.0,
    )
    _, layout = build_step(
        TABLE, make_plan(TABLE.lengths, batch_size=4, num_steps=1, align=8), 0, {}
    )
    outputs = Outputs(logprobs=jnp.full((3, 2, 3), -1.0))
    _, found = evaluate(SFT(), lambda params, batch, layout: outputs, None, batch, layout)
    np.testing.assert_allclose(found["sampling/logp_difference"], 0.25 + 1.0, rtol=1e-6)
    np.testing.assert_allclose(found["reference/logp_difference"], 0.5 + 2.0, rtol=1e-6)
