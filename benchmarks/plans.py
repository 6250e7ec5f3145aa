"""Weak scaling as it is planned: the same pairs a chip on slices of 8 to 4,096 chips.

    python -m benchmarks plans
    python -m benchmarks plans --chips 8 64

DPO on Llama-3 8B (configs/plans/llama3_8b.py), four pairs of 512 + 2 x 512 tokens a chip. Nothing
runs: the update is compiled for each slice of v5p as `alignax plan` does it, with parameters over
all chips and over parts of them, and of those that fit the mesh is kept whose bound is least. Each
compilation has a process of its own. Prints a Markdown table (docs/scaling.md).
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.tables import table

CONFIG = Path(__file__).parents[1] / "configs" / "plans" / "llama3_8b.py"
PAIRS = 4  # a chip
PROMPT = RESPONSE = 512
SLICES = {8: "v5p:2x2x2", 64: "v5p:4x4x4", 512: "v5p:8x8x8", 4096: "v5p:16x16x16"}
GIB = 2**30


class Row(NamedTuple):
    """An update on one slice and mesh, on each chip.

    Fields:
        data, fsdp: the mesh. fits: whether a chip has room. memory, sent: bytes. flops: counted.
        compute: seconds that arithmetic takes at least.
        at_least, at_most: seconds of all together, side by side and one after another.
    """

    chips: int
    data: int
    fsdp: int
    fits: bool
    memory: float
    flops: float
    sent: float
    compute: float
    at_least: float
    at_most: float


def meshes(chips: int) -> list[tuple[int, int]]:
    """Copies of the parameters, and chips that each is split over: all, an eighth, a 64th."""
    return [(data, chips // data) for data in (1, 8, 64) if chips // data >= 8]


def planned(chips: int, data: int, fsdp: int) -> Row:
    """Compiles one update; in a process that has not used JAX yet."""
    from alignax import topology
    from alignax.config import load
    from alignax.forecast import Boxes, forecast
    from alignax.train.sharding import Mesh

    topology.prepare(SLICES[chips])
    made = load(CONFIG)
    made = dataclasses.replace(
        made,
        mesh=Mesh(data=data, fsdp=fsdp),
        loop=dataclasses.replace(made.loop, batch_size=PAIRS * chips),
    )
    slice_ = topology.topology(SLICES[chips])
    found = forecast(made, slice_, Boxes(PROMPT, RESPONSE, 2))
    return Row(
        chips,
        data,
        fsdp,
        found.fits,
        found.needed,
        found.flops / chips,
        sum(one.sent for one in found.traffic),
        found.compute,
        found.at_least,
        found.at_most,
    )


def best(rows: Iterable[Row]) -> list[Row]:
    """Of each number of chips the row that fits and takes least, one after another."""
    kept: dict[int, Row] = {}
    for row in rows:
        if row.fits and (row.chips not in kept or row.at_most < kept[row.chips].at_most):
            kept[row.chips] = row
    return list(kept.values())


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/scaling.md."""
    header = ["chips", "slice", "data x fsdp", "GiB a chip", "TFLOP a chip", "GiB sent a chip",
              "s side by side", "s one after another", "arithmetic's share"]  # fmt: skip
    return table(
        header,
        [
            [
                f"{row.chips:,}",
                SLICES[row.chips].split(":")[1],
                f"{row.data} x {row.fsdp}",
                f"{row.memory / GIB:.1f}",
                f"{row.flops / 1e12:.0f}",
                f"{row.sent / GIB:.1f}",
                f"{row.at_least:.3f}",
                f"{row.at_most:.3f}",
                f"{row.compute / row.at_most:.0%} to {row.compute / row.at_least:.0%}",
            ]
            for row in rows
        ],
    )


def plans(options: argparse.Namespace, _: list[str]) -> None:
    """All slices and meshes, each as it is found; then the best of each slice."""
    rows = []
    fresh = multiprocessing.get_context("spawn")  # libtpu is loaded once and for all
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=1, mp_context=fresh, max_tasks_per_child=1
    ) as pool:
        for chips in options.chips:
            for data, fsdp in meshes(chips):
                rows.append(pool.submit(planned, chips, data, fsdp).result())
                print(rows[-1], flush=True)
    print("\n" + markdown(best(rows)))
