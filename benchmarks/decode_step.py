"""What a token of every response costs on this machine, by how many there are and how they lie.

    python -m benchmarks decode_step --rounds 5
    python -m benchmarks decode_step --platform gpu --dtype bfloat16 --batch 64 --model 1b

A decoder of SmolLM2-135M's shape, or of Llama 3.2's, with random weights; prompts of 128 tokens,
room for 128 tokens of each response. A slot holds a prompt and `width` responses to it
(`alignax.generate`).
Beside the steps, products of the MLP's shape with as many rows, each with a matrix of its own as in
a step, against a large square one: what is left of the machine's rate before anything else is done.
A stretch of tokens is one call of a compiled program, and calls of two lengths tell what a token
takes from what a call does beside its tokens.

The bound of a step is the bytes that it must read over the rate of memory (`flops.bandwidth`):
weights, and of the cache each prompt's tokens once a slot and what there is of each response.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from alignax.generate.sampler import Sampler, State, advance, start
from alignax.models.caching import Cache
from alignax.models.config import DecoderConfig
from alignax.models.transformer import Decoder
from benchmarks.flops import bandwidth, machine_rate
from benchmarks.ours import decoder
from benchmarks.shapes import LLAMA_1B, LLAMA_3B

MODELS = {
    "135m": DecoderConfig(vocab_size=49_152, width=576, layers=30, heads=9, kv_heads=3,
                          head_dim=64, mlp_width=1_536, tied=True),
    "1b": decoder(LLAMA_1B).config,
    "3b": decoder(LLAMA_3B).config,
}  # fmt: skip
PROMPT = PLACES = 128
SHAPES = ((16, 4), (8, 4), (4, 4), (32, 1), (16, 1), (8, 1))
ROWS = (64, 32, 16)
CHECKED = 3  # tokens that are drawn before states are compared
LONGER = 3  # times as many tokens has the longer of two calls
K = TypeVar("K", bound=Hashable)


def decode_step(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Prints two tables: products, and steps; medians, all measured in turn.

    On a GPU also how far states are from float32's, and it ends where they are too far.
    """
    del arguments
    lengths = options.tokens, LONGER * options.tokens  # of calls
    if sum(lengths) * (options.rounds + 1) > PLACES:
        sys.exit(f"expected at most {PLACES} tokens in all rounds and one more, of calls of "
                 f"{lengths[0]} and of {lengths[1]}")  # fmt: skip
    shapes, dtype, platform = SHAPES, options.dtype, options.platform
    if options.batch:
        if options.batch % 4:
            sys.exit(f"expected a --batch that 4 divides; got {options.batch}")
        shapes = ((options.batch // 4, 4), (options.batch, 1))
    rate, memory = machine_rate(platform, dtype), bandwidth(platform)
    config = MODELS[options.model]
    print(f"{jax.devices()[0].device_kind}, {dtype}, {options.model}; a large square product: "
          f"{rate / 1e9:.0f} GFLOP/s; memory: {memory / 1e9:.1f} GB/s\n\n"
          "| rows | GFLOP/s | of the large product |\n| --- | ---: | ---: |")  # fmt: skip
    for rows, seconds in in_turn(
        {n: products(config, n, dtype) for n in ROWS}, options.rounds
    ).items():
        found = 2 * rows * config.width * config.mlp_width * config.layers / seconds
        print(f"| {rows} | {found / 1e9:.0f} | {found / rate:.0%} |")
    model = Decoder(config=config, dtype=dtype)
    params = jax.jit(model.init)(jax.random.key(0))
    weights = jax.jit(model.unstack)(params)
    steps = {x: steps_of(model, params, weights, *x) for x in shapes}
    if platform == "gpu":
        found = errors(model, params, weights, *shapes[0])
        print(f"\nstates after {CHECKED} tokens, off float32's by: "
              + ", ".join(f"{name} {error:.1e}" for name, error in found.items()))  # fmt: skip
        if not found["these"] <= 2 * found["XLA's"]:
            sys.exit("expected these kernels to be about as near float32 as XLA's")
    print("\n| slots x responses | ms a token | bound | of the bound | beside, ms a call |\n"
          "| --- | ---: | ---: | ---: | ---: |")  # fmt: skip
    # The first calls of `in_turn`, which are not timed, have drawn some already.
    drawn = sum(lengths) * (options.rounds + 2) / 2
    calls = {(x, n): functools.partial(go, n) for x, go in steps.items() for n in lengths}
    seconds = in_turn(calls, options.rounds)
    for slots, width in shapes:
        few, many = (seconds[(slots, width), n] for n in lengths)
        step = (many - few) / (lengths[1] - lengths[0])
        least = bytes_read(config, slots, width, drawn, jnp.dtype(dtype).itemsize) / memory
        print(f"| {slots} x {width} | {step * 1e3:.3f} | {least * 1e3:.3f} | {least / step:.0%} | "
              f"{(few - lengths[0] * step) * 1e3:.2f} |")  # fmt: skip


def bytes_read(config: DecoderConfig, slots: int, width: int, drawn: float, each: int) -> float:
    """Of a step: weights once, and keys and values of all tokens that are seen.

    Args:
        drawn: tokens of every response so far, the mean over the steps.
        each: bytes of a number.
    """
    weights = Decoder(config=config).num_params  # the embedding is the output matrix: read whole
    token = 2 * config.layers * config.kv_heads * config.head_dim
    return each * (weights + token * slots * (PROMPT + width * drawn))


def in_turn(runs: Mapping[K, Callable[[], Any]], rounds: int) -> dict[K, float]:
    """The median seconds of each, after one call that compiles."""
    seconds: dict[K, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


def products(config: DecoderConfig, rows: int, dtype: str) -> Callable[[], Any]:
    """A product of so many rows with a matrix of each layer, one after the other."""
    keys = jax.random.split(jax.random.key(0), config.layers)
    matrices = [jax.random.normal(key, (config.width, config.mlp_width), dtype) for key in keys]

    @jax.jit
    def run(x: jax.Array, matrices: list[jax.Array]) -> jax.Array:
        last = jnp.zeros((rows, 1), dtype)
        for matrix in matrices:
            last = ((x + 1e-9 * last) @ matrix)[:, :1]
        return last

    return functools.partial(run, jnp.ones((rows, config.width), dtype), matrices)


def begun(model: Decoder, params: Any, slots: int, width: int) -> tuple[State, Sampler]:
    """Random prompts computed, and what draws responses to them."""
    sampler = Sampler(num_samples=width, max_new_tokens=PLACES)
    prompts = np.random.default_rng(0).integers(0, model.config.vocab_size, (slots, PROMPT))
    whole, ids = jnp.full(slots, PROMPT), jnp.arange(slots)
    begin = jax.jit(functools.partial(start, model, sampler=sampler, places=PLACES))
    return begin(params, jax.random.key(0), prompts.astype(np.int32), whole, ids), sampler


def errors(model: Decoder, params: Any, weights: Any, slots: int, width: int) -> dict[str, float]:
    """How far states after a few tokens are from those in float32: norms of difference over norm.

    Returns:
        Of the kernels that serve here, and of XLA's.
    """
    cache = begun(model, params, slots, width)[0].cache
    shape = CHECKED, slots, width, 1
    tokens = jax.random.randint(jax.random.key(1), shape, 0, model.config.vocab_size)
    lean = dataclasses.replace(model, attention="xla")

    def states(model: Decoder, params: Any, cache: Cache) -> jax.Array:
        tables, cache = model.tables(PROMPT + PLACES), cache.without_ones()
        # One by one, so that each is written and read by those after it.
        for some in tokens:
            found, cache = model.extend(params, cache, some, tables)
        return found.astype(jnp.float32)

    by = lambda model: jax.jit(functools.partial(states, model))  # noqa: E731
    to_float = lambda x: x.astype(jnp.float32) if x.dtype == model.dtype else x  # noqa: E731
    with jax.default_matmul_precision("highest"):
        wide = dataclasses.replace(lean, dtype="float32")
        exact = by(wide)(params, jax.tree.map(to_float, cache))
    off = lambda x: float(jnp.linalg.norm(x - exact) / jnp.linalg.norm(exact))  # noqa: E731
    return {name: off(by(x)(weights, cache)) for name, x in (("these", model), ("XLA's", lean))}


def steps_of(
    model: Decoder, params: Any, weights: Any, slots: int, width: int
) -> Callable[[int], Any]:
    """Draws so many tokens more of every response; each call goes on from the last one's."""
    state, sampler = begun(model, params, slots, width)
    held = [state]
    run = jax.jit(functools.partial(advance, model, sampler=sampler), donate_argnums=1)

    def go(tokens: int) -> Any:
        held[0] = run(weights, held[0], jnp.array([-1]), jnp.int32(tokens), jnp.int32(0))
        return held[0]

    return go


if __name__ == "__main__":
    # Anew, since the platform must be known before JAX is imported.
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks", "decode_step", *sys.argv[1:]])
