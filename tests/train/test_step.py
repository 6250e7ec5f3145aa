"""One update is the same however it is cut: into micro-batches, over devices, in rows."""

import dataclasses
import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignax.core.types import Outputs
from alignax.data.pipeline import Batches, InMemory, build_step
from alignax.data.plan import make_plan
from alignax.methods import DPO, KTO, SFT, AttributeRewardModel, RewardWeighted
from alignax.models.outputs import outputs
from alignax.train import reference, sharding
from alignax.train.compilations import Compilations, update_options
from alignax.train.optim import Optim, make_optimizer
from alignax.train.step import count, init_state, make_step
from tests.models import plain
from tests.tiny_batch import CONFIG, decoder, example, model_fn, params, random_table

SGD = optax.sgd(0.1)
PAIRS = random_table(8, responses=2)
SINGLES = random_table(8, responses=1, seed=1)
tables = pytest.mark.parametrize("table", [PAIRS, SINGLES], ids=["of prompts", "of tokens"])


@functools.cache
def other():
    """A reference that the policy has moved away from."""
    return jax.tree.map(lambda x: 0.9 * x, params())


@functools.cache
def reference_of(table):
    """What the method of a table needs of the reference."""
    if table is not PAIRS:
        return {}
    plan = make_plan(table.lengths, batch_size=4, align=8)
    return {"ref_logprobs": reference.compute(model_fn, other(), table, plan)}


def method_of(table):
    return DPO(beta=0.5) if table is PAIRS else SFT()


@functools.cache
def updated(table, *, accumulation=1, optimizer=SGD):
    """The state and the metrics after one update on all groups."""
    plan = make_plan(
        table.lengths, batch_size=len(table), accumulation=accumulation, num_steps=1, align=8
    )
    batch, layout = build_step(table, plan, 0, reference_of(table))
    step = jax.jit(make_step(method_of(table), model_fn, optimizer))
    return step(init_state(params(), optimizer), batch, layout)


def assert_close(found, expected, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), found, expected)


def plain_nll(params, group):
    """Of the scored tokens of a group's only response."""
    ((tokens, mask),) = group.split()
    return -jnp.sum(plain.logprobs(CONFIG, params, group.prompt, tokens) * mask)


# --- Micro-batches


@tables
def test_micro_batches_give_what_one_batch_gives(table):
    state, metrics = updated(table, accumulation=4)
    expected_state, expected_metrics = updated(table)
    assert_close(state.params, expected_state.params)
    assert metrics.keys() == expected_metrics.keys()
    for name, x in metrics.items():
        np.testing.assert_allclose(x, expected_metrics[name], rtol=1e-5, atol=1e-6)


def test_micro_batches_of_unequal_token_counts_are_weighed_by_their_tokens():
    # Responses of 1, 1, 1 and 9 tokens in two micro-batches: the loss is the sum of their negative
    # log-likelihoods over 12, and not a mean of two means.
    table = InMemory([example([i + 1], [[5 + i] * n]) for i, n in enumerate((1, 1, 1, 9))])
    state, metrics = updated(table, accumulation=2)
    expected, slope = jax.value_and_grad(
        lambda params: sum(plain_nll(params, group) for group in table.examples) / 12
    )(params())
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert float(metrics["num_tokens"]) == 12
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params(), slope)
    assert_close(state.params, moved, atol=1e-5)


def test_the_loss_of_prompts_is_their_plain_mean():
    _, metrics = updated(PAIRS, accumulation=4)
    losses = []
    for group in PAIRS.examples:
        ratios = []
        for tokens, mask in group.split():
            policy, ref = (
                np.asarray(plain.logprobs(CONFIG, p, group.prompt, tokens))
                for p in (params(), other())
            )
            ratios.append(((policy - ref) * mask).sum())
        losses.append(np.log1p(np.exp(-0.5 * (ratios[0] - ratios[1]))))
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-4)


# --- Prompts that only fill the batch


@tables
def test_prompts_that_only_fill_the_batch_count_for_nothing(table):
    # Eight groups in one step of 8; or of 12, four of which are not there.
    expected_state, expected = updated(table)
    plan = make_plan(table.lengths, batch_size=12, accumulation=2, align=8)
    assert len(plan) == 1
    batch, layout = build_step(table, plan, 0, reference_of(table))
    assert (~batch.valid.any(axis=-1)).sum() == 4
    if table is PAIRS:  # whatever stands in a prompt that is not there
        batch.ref_logprobs[~batch.valid.any(axis=-1)] = np.nan
    step = jax.jit(make_step(method_of(table), model_fn, SGD))
    state, metrics = step(init_state(params(), SGD), batch, layout)
    assert_close(state.params, expected_state.params)
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, atol=1e-6)
    assert float(metrics["num_prompts"]) == 8


def test_counts_are_of_the_whole_step_and_at_least_one():
    plan = make_plan(SINGLES.lengths, batch_size=8, accumulation=4, num_steps=1, align=8)
    batch, _ = jax.tree.map(jnp.asarray, build_step(SINGLES, plan, 0))
    counts = count(batch)
    assert float(counts["prompts"]) == 8
    assert float(counts["tokens"]) == SINGLES.lengths.scored.sum()
    nothing = batch._replace(valid=jnp.zeros_like(batch.valid))
    assert {name: float(x) for name, x in count(nothing).items()} == {"prompts": 1, "tokens": 1}


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_an_attributes_error_is_a_mean_over_what_was_rated_in_the_whole_step(accumulation):
    # Of 8 responses 2 were rated, (2 - 1)^2 and (2 - 4)^2: 2.5 on average.
    rated = {1: 1.0, 6: 4.0}
    table = InMemory(
        [e._replace(attributes=np.array([[rated.get(i, np.nan)]], np.float32))
         for i, e in enumerate(SINGLES.examples)]
    )  # fmt: skip

    def model(params, batch, layout):
        del layout
        told = jnp.full(batch.attributes.shape, params["told"])
        return Outputs(jnp.zeros(batch.mask.shape), rewards=told[..., 0], attributes=told)

    plan = make_plan(table.lengths, batch_size=8, accumulation=accumulation, num_steps=1, align=8)
    step = jax.jit(make_step(AttributeRewardModel(attributes=("depth",)), model, SGD))
    _, metrics = step(init_state({"told": jnp.float32(2.0)}, SGD), *build_step(table, plan, 0))
    np.testing.assert_allclose(metrics["mse/depth"], 2.5, rtol=1e-6)


# --- The state


def test_an_update_counts_itself_and_logs_the_norm_of_the_whole_gradient():
    state, metrics = updated(SINGLES, accumulation=4)
    assert int(state.step) == 1
    # With plain SGD the update is the gradient times the rate.
    squares = jax.tree.map(
        lambda new, old: float(jnp.sum(((old - new) / 0.1) ** 2)), state.params, params()
    )
    norm = np.sqrt(sum(jax.tree.leaves(squares)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-3)


def test_the_gradient_norm_is_taken_before_clipping():
    clipped = optax.chain(optax.clip_by_global_norm(1e-3), SGD)
    _, metrics = updated(SINGLES, optimizer=clipped)
    _, expected = updated(SINGLES)
    assert float(expected["grad_norm"]) > 1e-2
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-6)


# --- The reference


def test_the_first_loss_is_log_two_though_the_reference_was_packed_otherwise():
    ref_plan = make_plan(PAIRS.lengths, batch_size=3, align=8)
    plan = make_plan(PAIRS.lengths, batch_size=8, accumulation=2, num_steps=1, seed=5, align=64)
    assert ref_plan.shape.row_length != plan.shape.row_length
    ref = reference.compute(model_fn, params(), PAIRS, ref_plan)
    batch, layout = next(Batches(PAIRS, plan, numbers={"ref_logprobs": ref}))
    assert np.abs(batch.ref_logprobs).max() > 1
    step = jax.jit(make_step(DPO(beta=0.1), model_fn, SGD))
    _, metrics = step(init_state(params(), SGD), batch, layout)
    np.testing.assert_allclose(metrics["loss"], np.log(2.0), atol=1e-6)
    np.testing.assert_allclose(metrics["rewards/margins"], 0.0, atol=1e-6)
    assert float(metrics["grad_norm"]) > 0


# --- Devices


def spread_over(mesh, table):
    """State and logged metrics after two updates with momentum, on the devices of a mesh."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    plan = make_plan(
        table.lengths,
        batch_size=8,
        accumulation=2,
        num_steps=2,
        seed=0,
        shards=4,  # the same arrays for every mesh
        align=8,
    )
    lie = sharding.parameters(mesh, decoder().abstract(), decoder().axes())
    shardings = sharding.state(mesh, lie, optimizer, decoder().abstract())
    model = functools.partial(outputs, decoder(), reach=plan.shape.reach)
    step = jax.jit(
        make_step(method_of(table), model, optimizer),
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    batches, logged = Batches(table, plan, numbers=reference_of(table)), []
    state = jax.device_get(init_state(params(), optimizer))
    with jax.set_mesh(mesh), Compilations() as compiled:
        state = jax.device_put(state, shardings)
        for batch in batches:
            state, metrics = step(state, *jax.device_put(batch, sharding.rows(mesh, leading=1)))
            logged.append(jax.device_get(metrics))
            assert all(
                x.sharding.is_equivalent_to(place, x.ndim)
                for x, place in zip(*map(jax.tree.leaves, (state, shardings)), strict=True)
            )
    assert compiled.programs["update"] == 1  # for both updates
    return jax.device_get(state), logged


@tables
def test_eight_devices_give_what_one_gives(table, caplog):
    with caplog.at_level(logging.WARNING, logger="alignax"):
        mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
        eight, eight_logged = spread_over(mesh, table)
    assert caplog.text == ""  # every axis is split
    mesh = sharding.make_mesh(sharding.Mesh(data=1), jax.devices()[:1])
    one, one_logged = spread_over(mesh, table)
    for found, expected in zip(eight_logged, one_logged, strict=True):
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=0, atol=1e-6)
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert_close(eight.params, one.params)
    # Gradients, of which the embedding's is the least exact: on one device, and for the plain
    # computation too, it is 2e-6 from what float64 gives.
    assert_close(eight.opt_state, one.opt_state, atol=5e-6)


def test_parameters_are_really_split():
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
    lie = sharding.parameters(mesh, decoder().abstract(), decoder().axes())
    placed = jax.device_put(params(), lie)
    kernel = placed["layers"]["attention"]["query"]["kernel"]  # [2, 16, 4, 8]
    assert kernel.addressable_shards[0].data.shape == (2, 8, 2, 8)
    assert placed["embed"].addressable_shards[0].data.shape == (20, 8)


# --- Settings


def test_strengths_may_be_vmapped_through_updates():
    # Hyperparameters need not be Python numbers: two runs of two updates in one program. A run
    # with the higher beta takes the longer step and has the lower loss after it.
    plan = make_plan(PAIRS.lengths, batch_size=8, num_steps=1, align=8)
    table = reference.compute(
        model_fn, params(), PAIRS, make_plan(PAIRS.lengths, batch_size=4, align=8)
    )
    arrays = jax.tree.map(jnp.asarray, build_step(PAIRS, plan, 0, {"ref_logprobs": table}))

    @jax.jit
    @jax.vmap
    def losses(beta):
        step = make_step(dataclasses.replace(DPO(), beta=beta), model_fn, optax.sgd(0.01))
        state, first = step(init_state(params(), optax.sgd(0.01)), *arrays)
        return first["loss"], step(state, *arrays)[1]["loss"]

    first, second = losses(jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(first, np.log(2.0), atol=1e-6)
    assert second[1] < second[0] < np.log(2.0)


# --- Means over the step that a loss needs


@pytest.mark.parametrize("method", [KTO(beta=0.5), RewardWeighted(beta=0.7)], ids=repr)
def test_means_over_the_step_do_not_depend_on_how_it_is_cut(method):
    """8 prompts at once, and in 4 micro-batches of 2, whose own means differ."""
    table = random_table(8, responses=2 if method.needs().reference else 1, seed=2)
    for i, group in enumerate(table.examples):
        group.scores[:] = i % 3 - 1.0

    def update(accumulation):
        plan = make_plan(table.lengths, batch_size=8, accumulation=accumulation, num_steps=1)
        batch, layout = build_step(table, plan, 0)
        # Below all log-probabilities, so that the divergence is not clamped at 0.
        batch = batch._replace(ref_logprobs=np.where(batch.mask, np.float32(-7.0), 0.0))
        step = jax.jit(make_step(method, model_fn, SGD))
        return step(init_state(params(), SGD), batch, layout)

    (whole, metrics), (cut, cut_metrics) = update(1), update(4)
    assert_close(cut.params, whole.params)
    assert_close(cut_metrics, metrics, atol=1e-5)
    if "kl" in metrics:
        assert metrics["kl"] > 1.0


# --- As it is compiled


def test_no_moment_of_adam_is_copied_and_the_update_is_that_without_options():
    # So large an eps, or rounding decides where a parameter with next to no gradient goes.
    optim = Optim(learning_rate=0.1, warmup_ratio=0.0, adam_eps=1.0)
    optimizer = make_optimizer(optim, 3, decoder().axes())
    plan = make_plan(PAIRS.lengths, batch_size=len(PAIRS), num_steps=1, align=8)
    arrays = build_step(PAIRS, plan, 0, reference_of(PAIRS))
    step = make_step(DPO(), model_fn, optimizer)
    states, copies = [], []
    for options in (None, update_options()):
        state = init_state(jax.tree.map(jnp.copy, params()), optimizer)
        update = jax.jit(step, donate_argnums=0, compiler_options=options)
        program = update.lower(state, *arrays).compile()
        copies.append(len(re.findall(r" copy\(%state", program.as_text())))
        for _ in range(3):
            state, _ = program(state, *arrays)
        states.append(state)
    assert copies[0] > copies[1] == 0
    assert_close(states[0], states[1])
