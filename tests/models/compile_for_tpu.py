"""Compiles what a TPU would run, without one, and says what came of it as JSON.

A process of its own, `python -m tests.models.compile_for_tpu`, because libtpu is loaded once and
for all, and takes no flags that are meant for CPUs.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import jax
from jax.experimental import topologies

from alignax.train import sharding
from tests.models.tpu_programs import Program, local_bytes, programs, tiled_bytes


def report(program: Program) -> dict:
    """The kernels that a program calls, the shapes of its arrays of floats, and its memory.

    Sizes are in bytes on each device; `given` is counted by shape, what is `memory` the compiler's.
    """
    compiled = program.lowered.compile()
    text = compiled.as_text()
    called = re.findall(r'"tpu_custom_call".*?op_name="([^"]*)"', text, re.DOTALL)
    kernels = re.findall(r"/splash_mha_(\w+?)_(?:no_)?residuals/", "\n".join(called))
    shapes = set(re.findall(r"\b(f32|bf16)\[([0-9,]+)\]", text))
    sliced = re.findall(r' dynamic-slice\(.*op_name="[^"]*splash_mha_', text)
    plan = compiled.memory_analysis()
    kinds = "argument", "output", "temp", "alias"
    return program.facts | {
        "calls": len(called),
        "kernels": sorted(kernels),
        "slices": len(sliced),
        "shapes": sorted(
            [kind, [int(size) for size in sizes.split(",")]] for kind, sizes in shapes
        ),
        "given": {kind: local_bytes(tree) for kind, tree in program.given.items()},
        "tiled": {kind: tiled_bytes(tree) for kind, tree in program.given.items()},
        "memory": {kind: getattr(plan, f"{kind}_size_in_bytes") for kind in kinds},
    }


def slices() -> dict:
    """A mesh whose axes are no products of those of the slice it is laid on."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5p:4x4x4").devices
    return dict(sharding.make_mesh(sharding.Mesh(data=2, fsdp=32), list(devices)).shape)


if __name__ == "__main__":
    # What is compiled for devices that are not there cannot be read back for them.
    jax.config.update("jax_enable_compilation_cache", False)
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    lowered = programs(devices)
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(lowered, pool.map(report, lowered.values()), strict=True))
    print(json.dumps({"slices": slices(), **found}))
