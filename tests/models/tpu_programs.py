"""Every kind of program that a run has, lowered for TPUs that are not there; small ones.

What they are of: the update with each way of attention, recomputation, mesh and head; with experts,
with an adapter, of a sweep; and what the engine samples by. `compile_for_tpu` compiles them.
"""

import dataclasses
import functools
import itertools
import math
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from alignax import sweep
from alignax.config import Data, Experiment, Model
from alignax.data.pipeline import TokenArrays, build_step
from alignax.data.plan import make_plan
from alignax.generate import engine
from alignax.generate.sampler import Sampler, sample
from alignax.members import Sweep
from alignax.methods import DPO, PPO, RewardModel
from alignax.models import flash, quantised, splash
from alignax.models.actor_critic import ActorCritic, actor_critic_outputs
from alignax.models.config import DecoderConfig, Experts, LayerKind
from alignax.models.lora import Adapter, LoRA
from alignax.models.outputs import outputs
from alignax.models.transformer import Decoder
from alignax.train import sharding
from alignax.train.optim import Optim, make_optimizer
from alignax.train.sharding import Mesh
from alignax.train.step import init_state, make_step
from tests.tiny_batch import random_table

# Heads of 64 as SmolLM2 has them; all else small, for the sake of the compiler's time. No size
# stands for two axes, halves of it neither, so that shapes name them.
CONFIG = DecoderConfig(
    vocab_size=1024, width=192, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=160, tied=True
)
MODEL = Decoder(config=CONFIG, dtype="bfloat16")
CHUNK = 32  # tokens of each shard whose logits may exist at once
CHUNKED = functools.partial(outputs, chunk_bytes=4 * CHUNK * CONFIG.vocab_size)
PROMPT, PLACES, LENGTH = 120, 128, 16
ALTERNATING = LayerKind(window=100), LayerKind()
ONE = Mesh(data=1)


class Program(NamedTuple):
    """What is compiled, and what it is given, in shapes that know their place.

    Fields:
        lowered: to compile.
        given: by what it is for: `state`, `batch`, `frozen`.
        facts: that the compiled program does not say.
    """

    lowered: Any
    given: dict[str, Any]
    facts: dict[str, Any]


def abstract(tree, places):
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places
    )


def everywhere(tree, place):
    return abstract(tree, jax.tree.map(lambda _: place, tree))


def rows_of(mesh, *, count=8, longest=48, numbers=("ref_logprobs",)):
    """The arrays of one step, and its plan."""
    table = random_table(count, longest=longest)
    plan = make_plan(table.lengths, batch_size=count, shards=sharding.shards(mesh), align=64)
    empty = TokenArrays.empty(table.lengths)
    return build_step(table, plan, 0, dict.fromkeys(numbers, empty)), plan


def update(
    devices,
    *,
    mesh=ONE,
    method=None,
    model=MODEL,
    call=CHUNKED,
    optimizer=None,
    **batch,
):
    """An update, of whole models."""
    mesh = sharding.make_mesh(mesh, devices)
    arrays, plan = rows_of(mesh, **batch)
    call = functools.partial(call, model, reach=plan.shape.reach)
    optimizer = optimizer or optax.adam(0.1)
    lie = sharding.parameters(mesh, model.abstract(), model.axes())
    places = sharding.state(mesh, lie, optimizer, model.abstract())
    state = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), model.abstract())
    step = jax.jit(
        make_step(method or DPO(beta=0.1), call, optimizer),
        donate_argnums=0,
        out_shardings=(places, sharding.replicated(mesh)),
    )
    given = {
        "state": abstract(state, places),
        "batch": everywhere(arrays, sharding.rows(mesh, leading=1)),
    }
    with jax.set_mesh(mesh):
        lowered = step.lower(given["state"], *given["batch"])
    return Program(lowered, given, sizes(plan, arrays))


def sizes(plan, arrays):
    shape = plan.shape
    here = shape.rows // shape.shards
    return {"row": shape.row_length, "rows": here, "scored": int(arrays[1].source.shape[-1])}


def changed(config=CONFIG, *, remat="none", **changes):
    config = dataclasses.replace(config, **changes)
    return Decoder(config=config, dtype="bfloat16", remat=remat)


def adapted(devices, *, base):
    """An update of an adapter beside a base that is held as `base` says."""
    mesh = sharding.make_mesh(ONE, devices)
    arrays, plan = rows_of(mesh)
    decoder = changed(layers=1)
    adapter = Adapter(decoder=decoder, settings=LoRA(rank=8, base=base))

    def read(params):
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
        return quantised.hold(params, adapter, base)

    call = functools.partial(outputs, decoder, reach=plan.shape.reach)
    optimizer = optax.adam(0.1)
    state = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), adapter.abstract())
    whole = NamedSharding(mesh, PartitionSpec())
    join = lambda params, frozen, key: adapter.attach(frozen, params, key)  # noqa: E731
    step = jax.jit(make_step(DPO(beta=0.1), call, optimizer, join=join), donate_argnums=0)
    given = {
        "state": everywhere(state, whole),
        "batch": everywhere(arrays, whole),
        "frozen": everywhere(jax.eval_shape(read, decoder.abstract()), whole),
    }
    with jax.set_mesh(mesh):
        lowered = step.lower(given["state"], *given["batch"], given["frozen"])
    return Program(lowered, given, sizes(plan, arrays))


def members(devices):
    """Two seeds at two strengths as one update, all at once."""
    mesh = sharding.make_mesh(ONE, devices)
    arrays, plan = rows_of(mesh)
    experiment = Experiment(
        model=Model(model_name_or_path="none"),
        data=Data(train="none"),
        method=DPO(),
        optim=Optim(),
        output_dir="none",
    )
    sizes_of = Sweep(seeds=2, grid={"method.beta": (0.1, 0.5)})
    model = changed(layers=1)
    one, call = model.abstract(), functools.partial(outputs, model, reach=plan.shape.reach)
    lead: Any = types.SimpleNamespace(
        experiment=experiment,
        method=experiment.method,
        trained=(one, model.axes(), None),
        model_fn=lambda plan: call,
        plan=plan,
        frozen=None,
    )
    every = sizes_of.members(experiment)
    step = sweep.make_step_of_all(lead, every, tuple(sizes_of.grid), 4, in_turn=False)
    optimizer = make_optimizer(experiment.optim, 4, model.axes())
    alone = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), one)
    several = functools.partial(
        jax.tree.map, lambda x: jax.ShapeDtypeStruct((len(every), *x.shape), x.dtype)
    )
    state = several(alone)._replace(step=alone.step)
    whole = NamedSharding(mesh, PartitionSpec())
    given = {"state": everywhere(state, whole), "batch": everywhere(several(arrays), whole)}
    with jax.set_mesh(mesh):
        lowered = jax.jit(step, donate_argnums=0).lower(given["state"], *given["batch"])
    return Program(lowered, given, sizes(plan, arrays))


def attention(devices):
    """The gradient of attention alone, over three rows of a device."""
    mesh = sharding.make_mesh(ONE, devices)
    whole = NamedSharding(mesh, PartitionSpec())
    where = (jax.ShapeDtypeStruct((3, 320), jnp.int32),) * 3
    states = tuple(jax.ShapeDtypeStruct((3, 320, heads, 64), jnp.bfloat16) for heads in (4, 2, 2))

    def total(states, where):
        attend = flash.over_rows("splash", *where, windows={None})
        return attend(*states, None).astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(total)).lower(*everywhere((states, where), whole))
    return Program(lowered, {}, {})


def sampling(devices):
    """Four prompts on one device, two responses to each."""
    mesh = sharding.make_mesh(ONE, devices)
    whole = NamedSharding(mesh, PartitionSpec())
    ids = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    given = MODEL.abstract(), key, ids((4, PROMPT)), ids((4,)), ids((4,)), ids((1,))
    draw = functools.partial(sample, sampler=Sampler(num_samples=2, max_new_tokens=LENGTH))
    with jax.set_mesh(mesh):
        program = jax.jit(lambda *arrays: draw(MODEL, *arrays))
        lowered = program.lower(*everywhere(given, whole))
    return Program(lowered, {}, {})


def engine_programs(devices) -> dict[str, Program]:
    """What an engine compiles itself: weights by layer, prompts to slots, a stretch of decoding."""
    mesh = sharding.make_mesh(ONE, devices)
    place = functools.partial(everywhere, place=NamedSharding(mesh, PartitionSpec()))
    ids = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    sampler = Sampler(num_samples=4, max_new_tokens=2 * PLACES, temperature=0.7, top_p=0.9)
    # Two layers, one of which looks back a little only.
    model = changed(kinds=ALTERNATING)
    params = place(model.abstract())
    key = place(jax.eval_shape(lambda: jax.random.key(0)))
    arrays = place((ids((4, PROMPT)), ids((4,)), ids((4,))))
    how = {"places": PLACES, "width": 2}
    with jax.set_mesh(mesh):
        unstack = engine._unstack.lower(model, params)
        weights = place(jax.eval_shape(lambda x: model.unstack(x), params))
        start = engine._start.lower(model, sampler, params, key, *arrays, **how)
        begin = functools.partial(engine._start, model, sampler, **how)
        state = place(jax.eval_shape(begin, params, key, *arrays))
        asked = place((jax.ShapeDtypeStruct((8, 2), jnp.bool), ids(()), ids(())))
        advance = engine._advance.lower(model, sampler, False, (2,), weights, state, *asked)
    return {
        "engine: unstack": Program(unstack, {"params": params}, {}),
        "engine: start": Program(start, {"params": params, "prompts": arrays}, {}),
        "engine: advance": Program(advance, {"weights": weights, "state": state}, {}),
    }


def with_block(size, make):
    """A program whose kernel has blocks of that size: the compiler's time grows with it."""
    shipped, splash.LONGEST_BLOCK = splash.LONGEST_BLOCK, size
    try:
        return make()
    finally:
        splash.LONGEST_BLOCK = shipped


def programs(devices) -> dict[str, Program]:
    """All of them, by name; on eight devices where several are needed, else on one."""
    one = devices[:1]
    gemma = {"kinds": ALTERNATING, "norms": "around", "logits_softcap": 30.0}
    gemma |= {"attention_softcap": 50.0}
    rewards = changed(num_scores=1, layers=1)
    both = ActorCritic(policy=changed(layers=1), critic=rewards)
    played = ("ref_logprobs", "old_logprobs", "old_values")
    ppo = PPO(num_samples=2, entropy_weight=0.01)
    entropic = functools.partial(actor_critic_outputs, entropy=True)
    eight = Mesh(data=2, fsdp=2, tensor=2)
    by_token = Mesh(data=2, sequence=2, tensor=2)
    made = {
        "train": lambda: update(devices, mesh=eight, optimizer=optax.sgd(0.1), count=16),
        "windows": lambda: update(one, model=changed(**gemma, remat="block")),
        "sequence": lambda: update(
            devices, mesh=by_token, model=changed(kv_heads=4, remat="attention")
        ),
        "experts": lambda: update(
            devices,
            mesh=eight,
            model=changed(layers=1, experts=Experts(count=4, per_token=2)),
            count=16,
        ),
        "reward": lambda: update(one, method=RewardModel(), model=rewards, numbers=()),
        "critic": lambda: update(one, method=ppo, model=both, call=entropic, numbers=played),
        "int8": lambda: adapted(one, base="int8"),
        "nf4": lambda: adapted(one, base="nf4"),
        "members": lambda: members(one),
        "rows": lambda: attention(one),
        "sample": lambda: sampling(one),
    }
    found = {name: with_block(128, make) for name, make in made.items()}
    found |= with_block(128, lambda: engine_programs(one))
    return found | {"shipped block": update(one, model=changed(layers=1), count=2, longest=400)}


def local_bytes(tree) -> int:
    """Bytes on each device, by shape alone."""
    return sum(math.prod(shape) * bits // 8 for shape, bits in _local(tree))


def tiled_bytes(tree) -> int:
    """The same as TPUs lay arrays out: in tiles of up to 8 x 128, by the axes that fill them best.

    Two axes are tiled, any two; a scalar takes a tile of 512 bytes.
    """
    return sum(_tiled(shape, bits) for shape, bits in _local(tree))


def _tiled(shape, bits) -> int:
    if len(shape) < 2:
        return _up(math.prod(shape) * bits // 8, 512)

    def padded(i: int, j: int) -> int:
        rows = min(8, 1 << (shape[i] - 1).bit_length()) * max(1, 32 // bits // 8)
        others = math.prod(shape) // shape[i] // shape[j]
        return others * _up(shape[i], rows) * _up(shape[j], 128)

    return min(padded(i, j) for i, j in itertools.permutations(range(len(shape)), 2)) * bits // 8


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _local(tree):
    """The shape of each array on a device, and the bits of a number of it."""
    for x in jax.tree.leaves(tree):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        small = x.dtype in (jnp.uint4, jnp.int4)
        bits = 64 if is_key else 4 if small else 8 * x.dtype.itemsize
        yield x.sharding.shard_shape(x.shape), bits
