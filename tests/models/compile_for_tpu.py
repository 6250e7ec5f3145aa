"""Compiles what a TPU would run, without one, and says what came of it as JSON.

A process of its own, `python -m tests.models.compile_for_tpu`, because libtpu is loaded once and
for all, and takes no flags that are meant for CPUs.
"""

import functools
import json
import re

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from alignax.data.pipeline import TokenArrays, build_step
from alignax.data.plan import make_plan
from alignax.generate.sampler import Sampler, sample
from alignax.methods import DPO
from alignax.models import splash
from alignax.models.config import DecoderConfig
from alignax.models.outputs import outputs
from alignax.models.transformer import Decoder
from alignax.train import sharding
from alignax.train.step import init_state, make_step
from tests.tiny_batch import random_table

# Heads of 64 as SmolLM2 has them; all else small, for the sake of the compiler's time. No size
# stands for two axes, halves of it neither, so that shapes name them.
CONFIG = DecoderConfig(
    vocab_size=1024, width=192, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=160, tied=True
)
MODEL = Decoder(config=CONFIG, dtype="bfloat16")
CHUNK = 32  # tokens of each shard whose logits may exist at once
PROMPT = 120


def abstract(tree, places):
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places
    )


def everywhere(tree, place):
    return abstract(tree, jax.tree.map(lambda _: place, tree))


def report(compiled) -> dict:
    """The kernels that a program calls, and the shapes of its arrays of floats."""
    text = compiled.as_text()
    name = r'op_name="[^"]*/splash_mha_(\w+?)_(?:no_)?residuals/'
    kernels = re.findall('"tpu_custom_call".*?' + name, text, re.DOTALL)
    shapes = set(re.findall(r"\b(f32|bf16)\[([0-9,]+)\]", text))
    return {
        "calls": text.count('"tpu_custom_call"'),
        "kernels": sorted(kernels),
        "shapes": sorted(
            [kind, [int(size) for size in sizes.split(",")]] for kind, sizes in shapes
        ),
    }


def train_step(devices) -> dict:
    """An update by DPO over data, fsdp and tensor, two devices each."""
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2), devices)
    table = random_table(16, longest=48)
    plan = make_plan(table.lengths, batch_size=16, shards=4, align=64)
    numbers = {"ref_logprobs": TokenArrays.empty(table.lengths)}
    arrays = build_step(table, plan, 0, numbers)
    scored = arrays[1].source.shape[2]
    chunk_bytes = 4 * CHUNK * CONFIG.vocab_size
    model = functools.partial(outputs, MODEL, reach=plan.shape.reach, chunk_bytes=chunk_bytes)
    optimizer = optax.sgd(0.1)
    lie = sharding.parameters(mesh, MODEL.abstract(), MODEL.axes())
    places = sharding.state(mesh, lie, optimizer, MODEL.abstract())
    state = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), MODEL.abstract())
    step = jax.jit(make_step(DPO(beta=0.1), model, optimizer), donate_argnums=0)
    with jax.set_mesh(mesh):
        rows = sharding.rows(mesh, leading=1)
        lowered = step.lower(abstract(state, places), *everywhere(arrays, rows))
        done = report(lowered.compile())
    return done | {"row": plan.shape.row_length, "scored": scored}


def sampling(devices) -> dict:
    """Four prompts on one device, two responses to each."""
    mesh = sharding.make_mesh(sharding.Mesh(data=1), devices[:1])
    whole = NamedSharding(mesh, PartitionSpec())
    ids = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    given = MODEL.abstract(), key, ids((4, PROMPT)), ids((4,)), ids((4,)), ids((1,))
    draw = functools.partial(sample, sampler=Sampler(num_samples=2, max_new_tokens=16))
    with jax.set_mesh(mesh):
        program = jax.jit(lambda *arrays: draw(MODEL, *arrays))
        return report(program.lower(*everywhere(given, whole)).compile())


def slices() -> dict:
    """A mesh whose axes are no products of those of the slice it is laid on."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5p:4x4x4").devices
    return dict(sharding.make_mesh(sharding.Mesh(data=2, fsdp=32), list(devices)).shape)


if __name__ == "__main__":
    splash.LONGEST_BLOCK = 128  # the compiler's time grows with it; rows keep several blocks
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    print(
        json.dumps({"train": train_step(devices), "sample": sampling(devices), "slices": slices()})
    )
