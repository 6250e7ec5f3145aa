"""Programs compiled for an H100 on a machine without one: what is launched, and what it moves.

    pip install "jax[cuda13]"      # the CPU's JAX with the compiler for GPUs; no driver is needed
    python -m benchmarks.without_gpu step --remat none
    python -m benchmarks.without_gpu step --remat block --scanned --same
    python -m benchmarks.without_gpu decode --model 1b --slots 16 --width 4

`step` is the update of the shape "dpo 1k 1b" in bfloat16, `decode` the loop that draws tokens, of
which one turn is counted. The compiler chooses no kernels by timing here, so that which product is
served how is not known; the others are those that a GPU has. Milliseconds are bytes over memory's
rate: what products and attention take is not in them.
"""

import argparse
import contextlib
import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

# Before JAX: no driver is looked for, and kernels are not timed.
os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from alignax.core import axes, logprobs
from alignax.generate.sampler import Sampler, advance, start
from alignax.models import cudnn, decoding, few_rows, flash
from alignax.models.transformer import Decoder
from alignax.train import compilations
from benchmarks import decode_step, variants
from benchmarks.hlo_bytes import Kernel, kernels
from benchmarks.shapes import SHAPES
from benchmarks.tables import table

MEMORY = 2.79e12  # bytes a second, as measured
KIND = "NVIDIA H100 80GB HBM3"
# What XLA asks of a device: NVIDIA's figures of the H100 SXM.
TARGET = f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: 9 minor: 0 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 20 }}
runtime_version {{ major: 13 minor: 0 }}
device_description_str: "{KIND}"
"""


# Modules that ask what the devices are.
KNOWS = axes, logprobs, flash, decoding, few_rows, compilations


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Has alignax choose as it does on an H100."""
    changed = [(x, "device_kind", lambda: KIND) for x in KNOWS]
    changed += [(cudnn, "served", lambda: True)]
    with contextlib.suppress(ImportError):  # from JAX 0.11 on Pallas asks the GPU what it is
        from jax._src.pallas.triton import gpu_info

        one = gpu_info.GpuInfo(gpu_version=None, arch_name="9.0", compute_capability=90)
        changed += [(gpu_info, "get_gpu_info", lambda: one)]
    kept = [(module, name, getattr(module, name)) for module, name, _ in changed]
    for module, name, value in changed:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def on_a_gpu(arrays: Any) -> Any:
    """The shapes of arrays, as they lie on the GPU that is not there."""
    topology = topologies.get_topology_desc(
        "", platform="cuda", target_config=TARGET, topology="1x1x1"
    )
    mesh = jax.sharding.Mesh(topology.devices, ("one",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
    return jax.tree.map(put, arrays)


def compiled(run: Any, *arrays: Any) -> Any:
    """The program for a GPU."""
    return run.trace(*on_a_gpu(arrays)).lower(lowering_platforms=("cuda",)).compile()


def step(options: argparse.Namespace) -> Any:
    """The update, as `benchmarks.variants` has it."""
    shape = SHAPES["dpo 1k 1b"]
    how = variants.Variant(
        prompts=options.prompts, remat=options.remat, scanned=options.scanned, same=options.same
    )
    model = variants.decoder_of(shape, how, "bfloat16")
    run, make, arrays = variants.update_of(shape, how, model)
    state = jax.eval_shape(make, jax.random.key(0))
    return compiled(run, state, *jax.eval_shape(lambda: jax.tree.map(jnp.asarray, arrays)))


def decode(options: argparse.Namespace) -> Any:
    """The loop that draws tokens."""
    config = decode_step.MODELS[options.model]
    model, places = Decoder(config=config, dtype="bfloat16"), decode_step.PLACES
    sampler = Sampler(num_samples=options.width, max_new_tokens=places)
    shaped = jax.ShapeDtypeStruct
    prompts, each = shaped((options.slots, decode_step.PROMPT), np.int32), (options.slots,)
    begin = functools.partial(start, model, sampler=sampler, places=places)
    lengths, ids = shaped(each, np.int32), shaped(each, np.int32)
    state = jax.eval_shape(begin, model.abstract(), jax.random.key(0), prompts, lengths, ids)
    run = jax.jit(functools.partial(advance, model, sampler=sampler), donate_argnums=1)
    weights = jax.eval_shape(model.unstack, model.abstract())
    number = shaped((), np.int32)
    return compiled(run, weights, state, shaped((1,), np.int32), number, number)


def summary(found: list[Kernel], most: int) -> str:
    """Two tables: kernels by what they are, and those that are no products by their bytes."""
    launches, moved = Counter[str](), Counter[str]()
    others = Counter[tuple[str, str, str]]()
    times = Counter[tuple[str, str, str]]()
    for kernel in found:
        kind = kernel.kind if kernel.kind in ("product", "attention") else "other"
        launches[kind] += kernel.times
        moved[kind] += kernel.bytes
        if kind == "other":
            key = kernel.kind, kernel.shape[:40], re.sub(r"\.\d+", "", kernel.source)[-60:]
            others[key] += kernel.bytes
            times[key] += kernel.times
    rows = [[x, str(launches[x]), f"{moved[x] / 1e9:.2f}", f"{moved[x] / MEMORY * 1e3:.2f}"]
            for x in launches]  # fmt: skip
    most_of = [[f"{moved / MEMORY * 1e3:.2f}", str(times[key]), *key]
               for key, moved in others.most_common(most)]  # fmt: skip
    return "\n\n".join(
        (
            table(("kernels", "launches", "GB", "ms of memory"), rows),
            table(("ms of memory", "launches", "kind", "gives", "of"), most_of),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--most", type=int, default=25, help="kernels that are listed")
    shared.add_argument("--text", help="where the program is written")
    update = commands.add_parser("step", parents=[shared])
    update.add_argument("--prompts", type=int, default=4)
    update.add_argument("--remat", default="none")
    update.add_argument("--scanned", action="store_true")
    update.add_argument("--same", action="store_true", help="the same bits each time")
    drawing = commands.add_parser("decode", parents=[shared])
    drawing.add_argument("--model", choices=decode_step.MODELS, default="135m")
    drawing.add_argument("--slots", type=int, default=16)
    drawing.add_argument("--width", type=int, default=4)
    options = parser.parse_args()
    with as_on_a_gpu():
        program = step(options) if options.command == "step" else decode(options)
    text, held = program.as_text(), program.memory_analysis()
    if options.text:
        with open(options.text, "w", encoding="utf-8") as file:
            file.write(text)
    print(f"temporary {held.temp_size_in_bytes / 2**30:.2f} GiB, arguments "
          f"{held.argument_size_in_bytes / 2**30:.2f} GiB\n")  # fmt: skip
    print(summary(kernels(text), options.most))


if __name__ == "__main__":
    main()
