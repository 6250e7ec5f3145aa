"""What an update of a GPU costs by how it is made: `python -m benchmarks.variants [--tiny]`.

The shape "dpo 1k 1b" in bfloat16, with four or more prompts; one line a variant: what is computed
again, whether layers are scanned or written out, attention by two pieces or with a mask, how much
of the slopes by the logits is kept, and whether the bits must be the same each time. "needed" is
the arithmetic without what is computed again, over the rate of a large product in the same process.
Each variant makes the same updates twice from the same parameters: whether these are equal to the
bit is in the last column but one. Before that, attention alone.

With --tiny a tiny model runs on whatever device is there: does everything run?
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignax import methods
from alignax.core import logprobs
from alignax.core.types import Params
from alignax.data.pipeline import build_step
from alignax.models import cudnn, flash, outputs
from alignax.models.stack import Remat
from alignax.models.transformer import Decoder
from alignax.train.compilations import update_options
from alignax.train.optim import make_optimizer
from alignax.train.step import init_state, make_step
from benchmarks import flops, ours
from benchmarks.rows import prepared
from benchmarks.shapes import SHAPES, TINY, Shape
from benchmarks.tables import table

UPDATES = 6  # of which the first is not counted


class Variant(NamedTuple):
    """How an update is made.

    Fields:
        gibibytes: of slopes by logits that are kept, at most. same: the same bits each time.
    """

    prompts: int = 4
    remat: Remat = "none"
    scanned: bool = False
    pieces: bool = True
    gibibytes: int = 2
    same: bool = True


VARIANTS = (
    Variant(),
    Variant(same=False),
    Variant(gibibytes=0),
    Variant(remat="elementwise"),
    Variant(remat="block"),
    Variant(remat="elementwise", scanned=True, gibibytes=0),
    Variant(remat="block", scanned=True, gibibytes=0, pieces=False),
    Variant(prompts=8, gibibytes=4),
)


def decoder_of(shape: Shape, how: Variant, dtype: Any) -> Decoder:
    """The model of a variant."""
    model = ours.decoder(shape.model)
    return dataclasses.replace(model, dtype=dtype, remat=how.remat, scan_layers=how.scanned)


def update_of(shape: Shape, how: Variant, model: Decoder) -> tuple[Any, Any, Any]:
    """The jitted update; what makes its first state from a key; its arrays."""
    rows, plan, _ = prepared(shape.rows(how.prompts), how.prompts, "shared", 1)
    ((batch, layout),) = [build_step(rows, plan, 0, {})]
    # Of a reference that is sure of everything: the time does not depend on it.
    batch = batch._replace(ref_logprobs=np.zeros(batch.mask.shape, np.float32))
    optimizer = make_optimizer(ours.optim({"learning_rate": 1e-5}), UPDATES, model.axes())
    model_fn = functools.partial(outputs.outputs, model, reach=plan.shape.reach)
    step = jax.jit(
        make_step(methods.DPO(beta=0.1), model_fn, optimizer),
        donate_argnums=0,
        compiler_options=update_options() if how.same else None,
    )
    return (
        step,
        jax.jit(lambda key: init_state(model.init(key), optimizer=optimizer)),
        (batch, layout),
    )


def compiled_of(shape: Shape, how: Variant, model: Decoder) -> tuple[Callable[..., Any], Any, Any]:
    """The same with the update compiled, and arrays on the device."""
    step, make, arrays = update_of(shape, how, model)
    served, cudnn.served = cudnn.served, cudnn.served if how.pieces else lambda: False
    kept, logprobs.SLOPES_BYTES = logprobs.SLOPES_BYTES, how.gibibytes * 2**30
    try:
        arrays = jax.device_put(arrays)
        return step.lower(jax.eval_shape(make, jax.random.key(0)), *arrays).compile(), make, arrays
    finally:
        cudnn.served, logprobs.SLOPES_BYTES = served, kept


def needed(shape: Shape, prompts: int) -> float:
    """Operations of an update that computes nothing again."""
    rows, plan, _ = prepared(shape.rows(prompts), prompts, "shared", 1)
    tokens = plan.shape.rows * plan.shape.row_length
    work = flops.Work(tokens, flops.seen(rows.lengths), plan.shape.scored)
    return flops.operations(shape.model, work, recomputed=False, reference=False).total


def timed(how: Variant, shape: Shape, dtype: Any, rate: float) -> list[str]:
    """The row of a variant."""
    model = decoder_of(shape, how, dtype)
    begin = time.perf_counter()
    compiled, make, arrays = compiled_of(shape, how, model)
    compiling = time.perf_counter() - begin
    seconds, sums = [], []
    for _ in range(2):
        state = make(jax.random.key(0))
        for _ in range(UPDATES):
            jax.block_until_ready(state)
            begin = time.perf_counter()
            state, metrics = compiled(state, *arrays)
            float(metrics["loss"])
            seconds.append(time.perf_counter() - begin)
        sums.append(bits(state.params))
        del state
    step = statistics.median(seconds[1:UPDATES] + seconds[UPDATES + 1 :])
    held = compiled.memory_analysis().temp_size_in_bytes / 2**30
    return [
        str(how.prompts),
        how.remat,
        "scanned" if how.scanned else "written out",
        "two pieces" if how.pieces else "one call with a mask",
        f"{how.gibibytes} GiB",
        "yes" if how.same else "no",
        f"{step:.4f}",
        f"{needed(shape, how.prompts) / step / rate:.1%}",
        f"{held:.1f}",
        "yes" if sums[0] == sums[1] else "no",
        f"{compiling:.1f}",
    ]


@jax.jit
def _sums(params: Params) -> list[jax.Array]:
    whole = [jax.lax.bitcast_convert_type(x, jnp.uint32).ravel() for x in jax.tree.leaves(params)]
    weight = lambda x: 2 * jax.lax.iota(jnp.uint32, x.size) + 1  # noqa: E731 - odd, so none is lost
    return [jnp.sum(x * weight(x), dtype=jnp.uint32) for x in whole]


def bits(params: Params) -> list[int]:
    """A number for each array, which another number anywhere changes; several may cancel out."""
    return [int(x) for x in _sums(params)]


def attention(shape: Shape, dtype: Any) -> list[list[str]]:
    """Milliseconds of attention over the rows of four prompts, and with its gradients."""
    lengths = [shape.prompt or 0, *[shape.response or 0] * shape.responses]
    response = jnp.tile(jnp.repeat(jnp.arange(3), jnp.array(lengths)), (4, 1))
    group = jnp.tile(jnp.arange(4)[:, None], (1, response.shape[1]))
    heads = shape.model.heads, shape.model.kv_heads, shape.model.kv_heads
    size = shape.model.width // shape.model.heads
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [
        jax.random.normal(key, (*group.shape, h, size), dtype)
        for key, h in zip(keys, heads, strict=True)
    ]
    rows = []
    for name, segments in (("two pieces", 12), ("one call with a mask", None)):
        attend = flash.over_rows(
            "cudnn", group, response, response, windows={None}, segments=segments
        )
        forward = jax.jit(lambda q, k, v, attend=attend: attend(q, k, v, None))
        both = jax.jit(
            jax.grad(
                lambda *x, attend=attend: attend(*x, None).astype(jnp.float32).sum(), (0, 1, 2)
            )
        )
        found = [
            flops.fastest(lambda run=run: jax.tree.leaves(run(*arrays))[0])
            for run in (forward, both)
        ]
        rows.append([name, *(f"{1e3 * x:.2f}" for x in found)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="*", type=int, help="numbers of variants, from 0")
    options = parser.parse_args()
    tiny, shape = options.tiny, SHAPES["dpo 1k 1b"]
    kind, platform = jax.devices()[0].device_kind, "cpu" if tiny else "gpu"
    if tiny:
        model = dataclasses.replace(TINY, tied=True)
        shape = dataclasses.replace(shape, prompt=64, response=64, model=model)
    dtype = "bfloat16" if kind.startswith("NVIDIA") else "float32"
    rate = flops.machine_rate(platform, dtype)
    print(f"{kind}, {dtype}; a large product: {rate / 1e12:.1f} TFLOP/s\n")
    if kind.startswith("NVIDIA"):
        print(table(("attention", "ms", "ms with backward"), attention(shape, dtype)), "\n")
    chosen = VARIANTS if options.only is None else [VARIANTS[i] for i in options.only]
    rows = [timed(how, shape, dtype, rate) for how in chosen]
    header = (
        "prompts", "computed again", "layers", "attention", "slopes kept", "same bits asked",
        "s a step", "needed, of the machine", "temporary GiB", "same bits", "compiled in s",
    )  # fmt: skip
    print(table(header, rows))


if __name__ == "__main__":
    main()
