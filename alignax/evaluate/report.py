"""What an evaluation looks like on a terminal: means with intervals, answers side by side."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from alignax.evaluate.stats import Estimate


def estimates_table(before: Mapping[str, Estimate], after: Mapping[str, Estimate]) -> Table:
    """Held-out means with 95% intervals, before and after training."""
    number = next((e.n for e in [*after.values(), *before.values()]), 0)
    table = Table(f"held out ({number} prompts)", "before", "after", box=box.SIMPLE)
    for name in {**before, **after}:
        cells = [str(side[name]) if name in side else "" for side in (before, after)]
        table.add_row(name.removeprefix("eval_"), *cells)
    return table


def answers_table(prompts: Sequence[str], before: Sequence[str], after: Sequence[str]) -> Table:
    """The same prompts answered before and after training."""
    table = Table("prompt", "before", "after", box=box.SIMPLE, show_lines=True)
    for row in zip(prompts, before, after, strict=True):
        table.add_row(*(Text(cell) for cell in row))  # not markup: answers hold square brackets
    return table


def as_metrics(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Means and the ends of their intervals as plain numbers, for the log."""
    flat = {}
    for name, estimate in estimates.items():
        flat[name] = estimate.mean
        flat[f"{name}/low"], flat[f"{name}/high"] = estimate.low, estimate.high
    return flat
