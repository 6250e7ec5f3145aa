"""What an update of a CPU costs by what XLA is asked for: `python -m benchmarks.orders`.

XLA for CPUs copies an array that is donated and read after something was written in its place,
unless it looks at regions of the program (`train.compilations.update_options` asks for that); and
its scheduler puts operations in an order that lets many run at once, or that needs little memory.
All four programs are in one process and make an update each in turn, so a machine that slows down
slows all. The ratio is the median of the ratios of neighbours.

    python -m benchmarks.orders --shapes "dpo 1:1" "dpo 4:1" --updates 20

With --tiny the model is a tiny one: does everything run?
"""

import argparse
import dataclasses
import statistics
import time
from typing import Any

import jax

from alignax.train.compilations import LOOK_AT_REGIONS
from benchmarks import ours
from benchmarks.shapes import SHAPES, TINY, Shape
from benchmarks.tables import table
from benchmarks.variants import Variant, update_of

REGIONS = {LOOK_AT_REGIONS: True}
MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
OPTIONS: dict[str, dict[str, Any]] = {
    "as XLA does": {LOOK_AT_REGIONS: False},
    "copies by regions": REGIONS,
    "order for memory": MEMORY | {LOOK_AT_REGIONS: False},
    "both": REGIONS | MEMORY,
}


def timed(name: str, shape: Shape, updates: int) -> list[list[str]]:
    """A row for each way to compile it."""
    model = ours.decoder(shape.model)
    step, make, arrays = update_of(shape, Variant(prompts=shape.groups), model)
    arrays = jax.device_put(arrays)
    abstract = jax.eval_shape(make, jax.random.key(0))
    compiled: dict[str, Any] = {
        how: step.lower(abstract, *arrays).compile(options) for how, options in OPTIONS.items()
    }
    states = {how: make(jax.random.key(0)) for how in compiled}
    seconds: dict[str, list[float]] = {how: [] for how in compiled}
    for _ in range(1 + updates):
        for how, update in compiled.items():
            begin = time.perf_counter()
            states[how], metrics = update(states[how], *arrays)
            float(metrics["loss"])
            seconds[how].append(time.perf_counter() - begin)
    first = next(iter(seconds.values()))[1:]
    return [
        [
            name,
            how,
            f"{statistics.median(taken[1:]):.3f}",
            f"{statistics.median(b / a for a, b in zip(first, taken[1:], strict=True)):.2f}",
            f"{compiled[how].memory_analysis().temp_size_in_bytes / 2**20:,.0f}",
        ]
        for how, taken in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    known = {name: x for name, x in SHAPES.items() if x.task == "dpo" and not x.adapter}
    parser.add_argument("--shapes", nargs="+", choices=list(known), default=["dpo 1:1", "dpo 4:1"])
    parser.add_argument("--updates", type=int, default=20, help="of each; one more warms up")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    rows = []
    for name in given.shapes:
        shape = dataclasses.replace(known[name], **({"model": TINY} if given.tiny else {}))
        rows += timed(name, shape, given.updates)
    print(table(["update", "XLA", "s", "x", "temporary MiB"], rows))


if __name__ == "__main__":
    main()
