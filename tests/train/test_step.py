"""The update: global denominators, filler that counts for nothing, eight devices like one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignax.data.pipeline import build_step
from alignax.data.plan import make_plan
from alignax.methods import DPO, SFT
from alignax.train import reference, sharding
from alignax.train.sharding import Mesh
from alignax.train.step import init_state, make_step
from tests.tiny_batch import decoder, groups, model_fn, params

OPTIMIZER = optax.sgd(0.1)


@functools.cache
def pairs():
    made = groups(24)
    table = reference.compute(model_fn, params(), made, make_plan(made.lengths, batch_size=8))
    return made, table


def one_batch(accumulation=1, shards=1, batch_size=8):
    made, table = pairs()
    plan = make_plan(
        made.lengths, batch_size=batch_size, accumulation=accumulation, num_steps=3, seed=0,
        shards=shards, align=8,
    )  # fmt: skip
    return plan, lambda index: build_step(made, plan, index, table)


def regroup(arrays, accumulation):
    """The same groups cut into micro-batches; each keeps all rows, and the slots of its own."""
    batch, layout = jax.tree.map(lambda x: x[0], arrays)
    b = len(batch.valid)
    size, micro = b // accumulation, []
    per_group = batch.mask[0].size
    for i in range(accumulation):
        part = jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], batch)
        inside = (layout.slot >= 0) & (layout.slot // per_group // size == i)
        slot = np.where(inside, layout.slot - i * size * per_group, -1)
        micro.append((part, layout._replace(slot=slot)))
    return jax.tree.map(lambda *x: np.stack(x), *micro)


@pytest.mark.parametrize("method", [DPO(beta=0.5), SFT()], ids=lambda m: type(m).__name__)
def test_micro_batches_give_what_one_batch_gives(method):
    # Their token counts differ, so a mean of micro-batch means would not pass for SFT.
    _, build = one_batch()
    step = jax.jit(make_step(method, model_fn, OPTIMIZER))
    state = init_state(params(), OPTIMIZER)
    whole, whole_metrics = step(state, *build(1))
    parts, part_metrics = step(state, *regroup(build(1), 4))
    counts = regroup(build(1), 4)[0].mask.sum(axis=(1, 2, 3))
    assert len(set(counts.tolist())) > 1
    for x, y in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(part_metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("method", [DPO(), SFT()], ids=lambda m: type(m).__name__)
def test_filler_prompts_count_for_nothing(method):
    made, table = pairs()
    few = make_plan(made.lengths, batch_size=24, align=8)
    more = make_plan(made.lengths, batch_size=32, align=8)  # 8 of them empty
    step = jax.jit(make_step(method, model_fn, OPTIMIZER))
    state = init_state(params(), OPTIMIZER)
    results = [step(state, *build_step(made, plan, 0, table)) for plan in (few, more)]
    assert float(results[1][1]["num_prompts"]) == 24
    np.testing.assert_allclose(results[0][1]["loss"], results[1][1]["loss"], rtol=1e-5)
    for x, y in zip(*(jax.tree.leaves(r[0].params) for r in results), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_the_loss_is_ln_two_while_the_policy_is_the_reference():
    # The reference was computed in other batches, rows and order than the update's.
    plan, build = one_batch()
    step = jax.jit(make_step(DPO(), model_fn, OPTIMIZER))
    for index in range(len(plan)):
        _, metrics = step(init_state(params(), OPTIMIZER), *build(index))
        assert abs(float(metrics["loss"]) - np.log(2)) < 1e-6
        assert abs(float(metrics["rewards/margins"])) < 1e-5


@pytest.mark.parametrize("method", [DPO(beta=0.5), SFT()], ids=lambda m: type(m).__name__)
def test_eight_devices_give_what_one_gives(method):
    _plan, build = one_batch(shards=4)
    optimizer = optax.adamw(1e-3)
    step = make_step(method, model_fn, optimizer)
    alone = jax.jit(step)
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    placed = sharding.parameters(mesh, decoder().abstract(), decoder().axes())
    places = sharding.state(mesh, placed, optimizer, decoder().abstract())
    state = init_state(params(), optimizer)
    with jax.set_mesh(mesh):
        spread = jax.jit(step, donate_argnums=0, out_shardings=(places, sharding.replicated(mesh)))
        many = jax.device_put(jax.tree.map(jnp.copy, state), places)
        for index in range(2):
            state, one = alone(state, *build(index))
            arrays = jax.device_put(build(index), sharding.rows(mesh, leading=1))
            many, eight = spread(many, *arrays)
            for name, value in one.items():
                np.testing.assert_allclose(eight[name], value, rtol=2e-5, atol=2e-6, err_msg=name)
    assert spread._cache_size() == 1
    same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), many, places)
    assert all(jax.tree.leaves(same))
    kernel = many.params["layers"]["mlp"]["gate"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")


def test_settings_may_be_traced():
    # Strengths are a vmap: hyperparameters need not be Python numbers.
    _, build = one_batch()
    arrays = jax.tree.map(jnp.asarray, build(0))
    state = init_state(params(), OPTIMIZER)

    @jax.jit
    def losses(betas):
        def loss(beta):
            method = dataclasses.replace(DPO(), beta=beta)
            state_after, _ = make_step(method, model_fn, OPTIMIZER)(state, *arrays)
            return make_step(method, model_fn, OPTIMIZER)(state_after, *arrays)[1]["loss"]

        return jax.vmap(loss)(betas)

    found = losses(jnp.array([0.1, 1.0]))
    assert found[1] < found[0] < np.log(2)
