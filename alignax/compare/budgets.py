"""Which of its trials an entry runs with, and for how many updates."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignax.compare.cells import Cell
from alignax.compare.settings import Comparison


def choose(comparison: Comparison, tuned: Mapping[Cell, Mapping[str, Any]]) -> dict[str, int]:
    """For each tuned entry the trial with the highest gold reward on the tuning prompts.

    At the data budget, the mean over its runs; of equals the first. A trial of which a run failed
    is chosen where none ended wholly; an entry whose runs all failed is not there.
    """
    reached: dict[tuple[str, int], list[float | None]] = {}
    for cell, result in tuned.items():
        reached.setdefault((cell.entry, cell.trial), []).append(_gold(result))
    best: dict[str, tuple[bool, float, int]] = {}
    for (name, trial), gold in reached.items():
        ended = [x for x in gold if x is not None]
        if ended:
            rank = (len(ended) == len(gold), float(np.mean(ended)), -trial)
            best[name] = max(rank, best.get(name, rank))
    return {name: -trial for name, (_, _, trial) in best.items()}


def _gold(result: Mapping[str, Any]) -> float | None:
    """The mean at the end of a run; None where it failed, or is no number."""
    if "failed" in result:
        return None
    mean = float(np.mean(result["rows"][-1]["prompts"]["gold"]))
    return mean if math.isfinite(mean) else None


def updates(
    comparison: Comparison,
    chosen: Mapping[str, int],
    tuned: Mapping[Cell, Mapping[str, Any]],
) -> dict[str, int]:
    """Updates of every entry: the data budget, and in the league until the compute budget too.

    What an entry spends before its first update and with each follows from its chosen trial, the
    run of the first tuning seed. One that orders its data by the length of the run ends with the
    data budget: a longer run would have met other data by then.
    """
    data, every = comparison.base.loop.max_steps, comparison.base.loop.eval_steps
    assert data is not None
    assert every is not None
    spent = {
        cell.entry: [(row["step"], row["cost"]["flops"]) for row in result["rows"] if row["cost"]]
        for cell, result in sorted(tuned.items(), key=lambda x: -x[0].seed)
        if chosen.get(cell.entry) == cell.trial and "rows" in result
    }
    found = {}
    for entry in comparison.entries:
        found[entry.name] = data
        bounded = not entry.league or entry.method.needs().schedule is not None
        if bounded or not {entry.like or entry.name, comparison.compute_like} <= set(spent):
            continue
        wanted: float = comparison.most_updates
        if entry.like is None:  # of another no trial tells what it spends
            budget = spent[comparison.compute_like][-1][1]
            (begin, before), (end, after) = spent[entry.name][0], spent[entry.name][-1]
            wanted = end + (budget - after) * (end - begin) / (after - before)
            wanted = every * math.ceil(wanted / every - 1e-9)
        found[entry.name] = int(max(data, min(wanted, comparison.most_updates)))
    return found
