"""Neighbouring blocks of packed rows as one product, beside block by block: compiling and running.

    python -m benchmarks.joined_blocks --rounds 5

One row of 2,048 tokens of a decoder of 4 layers with the widths of SmolLM2-135M, whose blocks look
back 128 to 256 tokens; value and gradient, attention computed again in the backward pass.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.types import Layout
from alignax.models import attention
from alignax.models.config import DecoderConfig
from alignax.models.transformer import Decoder

TOKENS, GROUP, PROMPT, RESPONSE = 2_048, 240, 40, 50
REACH = (0, 128, 256, 256, 192, 256, 192, 256, 256, 192, 256, 256, 192, 256, 128, 128)
CONFIG = DecoderConfig(vocab_size=2_048, width=576, layers=4, heads=9, kv_heads=3, head_dim=64,
                       mlp_width=1_536)  # fmt: skip
ROOMS = {"block by block": 0, "joined": attention.ROOM}


def main() -> None:
    """Prints seconds of compiling, MiB of temporary arrays and medians of a step, in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.joined_blocks")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    model = Decoder(config=CONFIG, remat="attention")
    params, layout = model.init(jax.random.key(0)), row()
    steps = {}
    for name, room in ROOMS.items():
        attention.ROOM = room
        lowered = jax.jit(jax.value_and_grad(functools.partial(loss, model))).lower(params, layout)
        began = time.perf_counter()
        steps[name] = lowered.compile()
        took = time.perf_counter() - began
        mib = steps[name].memory_analysis().temp_size_in_bytes / 2**20
        print(f"{name}: compiled in {took:.1f} s, {mib:,.0f} MiB of temporary arrays", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(params, layout))
            seconds[name].append(time.perf_counter() - began)
    for name, each in seconds.items():
        print(f"{name}: {statistics.median(each):.2f} s a step, {min(each):.2f} to {max(each):.2f}")


def loss(model: Decoder, params: dict, layout: Layout) -> jax.Array:
    """A number that depends on every token."""
    return (model.packed(params, layout, reach=REACH).astype(jnp.float32) ** 2).sum()


def row() -> Layout:
    """Groups of a prompt and four responses, one after the other."""
    index = np.arange(TOKENS)
    inside = index % GROUP
    response = np.where(inside < PROMPT, 0, 1 + (inside - PROMPT) // RESPONSE)
    position = np.where(inside < PROMPT, inside, PROMPT + (inside - PROMPT) % RESPONSE)
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, TOKENS)
    made = {"tokens": tokens, "group": index // GROUP, "response": response, "position": position}
    zeros = np.zeros_like(index)
    return Layout(**{n: jnp.asarray(made.get(n, zeros)[None], jnp.int32) for n in Layout._fields})


if __name__ == "__main__":
    main()
