"""What an evaluation looks like on a terminal: means with intervals, answers side by side."""

from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from alignax.evaluate.stats import Estimate


def estimates_table(before: Mapping[str, Estimate], after: Mapping[str, Estimate]) -> Table:
    """Held-out means with 95% intervals over n prompts, before and after training."""
    table = Table("held out", "n", "before", "after", box=box.SIMPLE)
    both = {**before, **after}
    for name, estimate in both.items():
        cells = [str(side[name]) if name in side else "" for side in (before, after)]
        table.add_row(escape(name.removeprefix("eval_")), str(estimate.n), *cells)
    if any(name.endswith("rewards/margins") and e.low == e.high == 0 for name, e in before.items()):
        table.caption = "before: policy and reference are the same, so no pair is won and none lost"
    return table


def answers_table(prompts: Sequence[str], before: Sequence[str], after: Sequence[str]) -> Table:
    """The same prompts answered before and after training."""
    table = Table("prompt", "before", "after", box=box.SIMPLE, show_lines=True)
    for row in zip(prompts, before, after, strict=True):
        table.add_row(*(Text(cell) for cell in row))  # not markup: answers hold square brackets
    return table


def members_table(
    parts: Sequence[tuple[Mapping[str, float], Mapping[str, Estimate], Mapping[str, Estimate]]],
) -> Table:
    """Held-out means over the seeds of each point of a grid, with 95% intervals.

    Args:
        parts: of each point: its settings, and what was found before training and after.
    """
    settings = [name.split(".")[-1] for name in parts[0][0]]
    table = Table("held out", *settings, "seeds", "before", "after", box=box.SIMPLE)
    for name in dict.fromkeys(name for _, before, after in parts for name in (*before, *after)):
        for point, *sides in parts:
            cells = [str(side[name]) if name in side else "" for side in sides]
            seeds = next(str(side[name].n) for side in sides if name in side)
            values = [f"{value:g}" for value in point.values()]
            table.add_row(escape(name.removeprefix("eval_")), *values, seeds, *cells)
        table.add_section()
    return table


def as_metrics(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Means and the ends of their intervals as plain numbers, for the log."""
    flat = {}
    for name, estimate in estimates.items():
        flat[name] = estimate.mean
        flat[f"{name}/low"], flat[f"{name}/high"] = estimate.low, estimate.high
    return flat


def from_metrics(flat: Mapping[str, float], count: Callable[[str], int]) -> dict[str, Estimate]:
    """The estimates of a line of the log.

    Args:
        count: the number of prompts behind a name.
    """
    return {
        name: Estimate(mean, flat[f"{name}/low"], flat[f"{name}/high"], count(name))
        for name, mean in flat.items()
        if f"{name}/low" in flat
    }
