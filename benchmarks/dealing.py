"""What laying out a run's plan costs, and how even it is: `python -m benchmarks.dealing`.

Plans of pairs whose lengths are drawn (log-normal, or uniform) or real (`hh_helpful_lengths.json`
again and again), one pass over all of them. Seconds are the processor's, the least of some calls.

    python -m benchmarks.dealing --groups 16384 65536 --batch 128

With --groups 64 --batch 8: does everything run?
"""

import argparse
import json
import time

import numpy as np

from alignax.data.plan import Lengths, make_plan
from benchmarks.shapes import REAL
from benchmarks.tables import table

CALLS = 3
# Shards and micro-batches of a step.
CUTS = ((1, 1), (8, 1), (1, 4))


def mixes(groups: int) -> dict[str, Lengths]:
    """Lengths of prompts and of two responses to each, by name."""
    draw = np.random.default_rng(0)
    drawn = np.clip(draw.lognormal(4.5, 0.6, (groups, 3)), 8, 1024).astype(int)
    uniform = draw.integers(20, 400, (groups, 3))
    real = np.resize(np.array(json.loads(REAL.read_text())), (groups, 3))
    found = {"log-normal": drawn, "uniform": uniform, "real": real}
    return {name: Lengths(x[:, 0], x[:, 1:], x[:, 1:]) for name, x in found.items()}


def timed(lengths: Lengths, batch: int, shards: int, accumulation: int) -> tuple[float, float]:
    """Seconds, and the share of the rows that is padding."""
    taken, padding = [], 0.0
    for _ in range(CALLS):
        begin = time.process_time()
        plan = make_plan(
            lengths, batch_size=batch, seed=0, shards=shards, accumulation=accumulation
        )
        taken.append(time.process_time() - begin)
        padding = plan.padding
    return min(taken), padding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--groups", nargs="+", type=int, default=[16_384, 65_536])
    parser.add_argument("--batch", type=int, default=128)
    given = parser.parse_args()
    rows = []
    for groups in given.groups:
        for name, lengths in mixes(groups).items():
            for shards, accumulation in CUTS:
                seconds, padding = timed(lengths, given.batch, shards, accumulation)
                cut = f"{shards} x {accumulation}"
                rows.append([name, f"{groups:,}", cut, f"{seconds:.2f}", f"{padding:.2%}"])
    print(table(["lengths", "pairs", "shards x micro-batches", "s", "padding"], rows))


if __name__ == "__main__":
    main()
