"""An update is the same on 1, 2, 4 and 8 devices, however they share the work, for every method."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from alignax import methods
from alignax.data.pipeline import build_step
from alignax.data.plan import make_plan
from alignax.methods import DPO
from alignax.models.actor_critic import ActorCritic
from alignax.models.transformer import Decoder
from alignax.networks import Computed
from alignax.train import sharding
from alignax.train.collectives import collectives
from alignax.train.sharding import Mesh
from alignax.train.step import init_state, make_step
from tests.method_cases import case
from tests.tiny_batch import CONFIG, random_table

SHARDS = 8  # the same arrays for every mesh
MODEL = dataclasses.replace(CONFIG, heads=8, kv_heads=4)  # heads for tensor and sequence
ALL_AXES = Mesh(data=1, fsdp=2, sequence=2, tensor=2)
MESHES = [Mesh(data=2), Mesh(data=1, fsdp=2), Mesh(data=1, tensor=2), Mesh(data=2, fsdp=2),
          Mesh(data=2, tensor=2), Mesh(data=1, fsdp=2, tensor=2), Mesh(data=8),
          Mesh(data=1, fsdp=8), Mesh(data=4, fsdp=2), Mesh(data=2, fsdp=2, tensor=2),
          Mesh(data=1, sequence=2), Mesh(data=2, sequence=2), Mesh(data=1, sequence=4),
          Mesh(data=2, sequence=4), Mesh(data=1, fsdp=2, sequence=4),
          Mesh(data=2, sequence=2, tensor=2)]  # fmt: skip


def network(method):
    """The model that a method trains."""
    needs = method.needs()
    scores = len(needs.score_names) if needs.head == "reward" else 0
    policy = Decoder(config=dataclasses.replace(MODEL, num_scores=scores))
    if needs.head != "value":
        return policy
    critic = Decoder(config=dataclasses.replace(MODEL, num_scores=1))
    return ActorCritic(policy=policy, critic=critic)


def initial(model):
    if isinstance(model, ActorCritic):
        return {"policy": initial(model.policy), "critic": initial(model.critic)}
    return jax.jit(model.init)(jax.random.key(0))


@functools.cache
def arrays(cls):
    """The plan and the arrays of one update, with all that a method may read of the past."""
    method, _, like = case(cls)
    k = like.scores.shape[1]
    table = random_table(8, responses=k, seed=3)
    plan = make_plan(table.lengths, batch_size=8, num_steps=1, align=8, shards=SHARDS)
    batch, layout = build_step(table, plan, 0)
    draw = np.random.default_rng(1)
    there = batch.mask.astype(np.float32)
    numbers = {
        name: -draw.exponential(1.5, batch.mask.shape).astype(np.float32) * there
        for name in ("ref_logprobs", "old_logprobs", "old_values")
    }
    scores = np.broadcast_to(np.asarray(like.scores)[:1, :], batch.scores.shape[1:])
    scores = scores + draw.permuted(np.arange(8.0))[:, None] * (method.needs().sampling is not None)
    attributes = draw.standard_normal((*batch.scores.shape, len(method.needs().score_names)))
    batch = batch._replace(
        scores=np.broadcast_to(scores, batch.scores.shape).astype(np.float32),
        attributes=attributes.astype(np.float32),
        **numbers,
    )
    return method, plan, batch, layout


def compiled(cls, settings: Mesh):
    """The update for a mesh, its mesh, and where everything lies."""
    method, plan, batch, layout = arrays(cls)
    mesh = sharding.make_mesh(settings)
    model, optimizer = network(method), optax.sgd(0.1, momentum=0.9)
    lie = sharding.parameters(mesh, model.abstract(), model.axes())
    places = sharding.state(mesh, lie, optimizer, model.abstract())
    step = jax.jit(
        make_step(method, Computed(model, plan.shape.reach), optimizer),
        out_shardings=(places, sharding.replicated(mesh)),
    )
    with jax.set_mesh(mesh):
        state = jax.device_put(init_state(initial(model), optimizer), places)
        put = jax.device_put((batch, layout), sharding.rows(mesh, leading=1))
        return step.lower(state, *put).compile(), mesh, (state, *put)


def updated(cls, settings: Mesh):
    program, mesh, given = compiled(cls, settings)
    with jax.set_mesh(mesh):
        state, metrics = program(*given)
    return jax.device_get((state.params, metrics))


@functools.cache
def alone(cls):
    return updated(cls, Mesh(data=1))


def assert_same(found, expected):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "settings", MESHES, ids=lambda m: f"{m.data}x{m.fsdp}x{m.sequence}x{m.tensor}"
)
def test_every_strategy_gives_the_update_of_one_device(settings):
    assert_same(updated(DPO, settings), alone(DPO))


@pytest.mark.parametrize("cls", methods.ALL, ids=lambda cls: cls.__name__)
def test_every_method_gives_the_same_update_on_eight_devices(cls):
    assert_same(updated(cls, ALL_AXES), alone(cls))


# --- What is sent


def kinds(settings: Mesh):
    program, mesh, _ = compiled(DPO, settings)
    return mesh, collectives(program.as_text())


def params_bytes():
    return sum(4 * x.size for x in jax.tree.leaves(network(DPO()).abstract()))


def test_copies_send_their_gradients_once_and_gather_log_probabilities_alone():
    """Besides these: sums for counts, loss, metrics and the norm."""
    _, found = kinds(Mesh(data=8))
    gathered = [x for x in found if x.kind == "all-gather"]
    one_a_token = 4 * arrays(DPO)[2].mask.size
    assert max(x.size for x in gathered) <= one_a_token
    assert len(gathered) <= 3  # forward, and for the two sides of the backward pass
    others = [x for x in found if x.kind != "all-gather"]
    assert {x.kind for x in others} <= {"all-reduce", "reduce-scatter"}
    assert params_bytes() <= sum(x.size * x.times for x in others) <= params_bytes() + 8192


def test_parts_gather_each_parameter_once_in_each_direction():
    """Two passes forward, for blocks are computed again, and one backward: no array of activations
    is ever gathered, and nothing is sent about in another way."""
    _, found = kinds(Mesh(data=1, fsdp=8))
    gathered = sum(x.size * x.times for x in found if x.kind == "all-gather")
    assert gathered <= 3 * params_bytes()
    reduced = sum(x.size * x.times for x in found if x.kind in ("all-reduce", "reduce-scatter"))
    assert reduced <= params_bytes() + 8192
    assert {x.kind for x in found} <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_log_probabilities_are_put_together_from_parts_of_the_vocabulary():
    """Each part's maximum, sum and target: the output matrix is never gathered, nor are logits.
    The input table is, once, to be looked up in."""
    _, found = kinds(Mesh(data=1, tensor=2))
    matrix = 4 * CONFIG.vocab_size * CONFIG.width
    large = [x for x in found if x.kind == "all-gather" and x.size >= matrix]
    assert [(x.size, x.times) for x in large] == [(matrix, 1)]
    # By the name of its scope, or with jax 0.12 of the argument: state.params[embed].
    assert "embed" in large[0].name


def test_on_three_axes_at_once_parameters_are_gathered_and_states_are_summed():
    """Of each parameter the part that `tensor` leaves, over `fsdp`, once in each direction. States
    of rows never are: they are summed over `tensor`, two a layer forward (attention, MLP) and five
    backward (queries, keys, values, gate, up)."""
    _, found = kinds(Mesh(data=2, fsdp=2, tensor=2))
    _, _, batch, layout = arrays(DPO)
    one_a_token = 4 * batch.mask.size
    states = 4 * layout.tokens.size // 4 * MODEL.width
    gathered = [x.size for x in found if x.kind == "all-gather" for _ in range(x.times)]
    assert max(gathered) < states
    part = params_bytes() // 2
    assert sum(gathered) <= 2 * part + 3 * one_a_token
    # Gradients of a part over `fsdp`, and of half of it over `data`.
    reduced = sum(x.size * x.times for x in found if x.kind in ("all-reduce", "reduce-scatter"))
    assert reduced <= part + part // 2 + 7 * MODEL.layers * states + 8192
    moved = [x.size * x.times for x in found if x.kind == "collective-permute"]
    assert sum(moved) <= one_a_token
    assert {x.kind for x in found} <= {"all-gather", "all-reduce", "reduce-scatter",
                                       "collective-permute"}  # fmt: skip


@pytest.mark.parametrize("parts", [2, 4])
def test_tokens_are_exchanged_for_heads_and_back_once_a_layer_in_each_direction(parts):
    """Queries and answers of 8 heads, keys and values of 4; nothing else of attention is sent, and
    no states of whole rows ever are: what meets the vocabulary is gathered, and parameters."""
    _, found = kinds(Mesh(data=1, sequence=parts))
    tokens = arrays(DPO)[3].tokens.size
    wide, narrow = (4 * tokens * MODEL.head_dim * n // parts for n in (MODEL.heads, MODEL.kv_heads))
    exchanged = sorted(x.size for x in found if x.kind == "all-to-all" for _ in range(x.times))
    directions = 2 * MODEL.layers
    assert exchanged == [narrow] * 2 * directions + [wide] * 2 * directions
    states = 4 * tokens * MODEL.width
    assert max(x.size for x in found if x.kind == "all-gather") < states
    assert {x.kind for x in found} <= {"all-gather", "all-reduce", "reduce-scatter", "all-to-all"}
