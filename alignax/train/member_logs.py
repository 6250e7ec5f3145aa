"""The numbers of runs side by side: of member i under `i/NAME`, and their means under `NAME`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np

from alignax.train.metrics import MetricLog
from alignax.train.step import SKIPPED

COUNTS = ("num_prompts", "num_tokens")  # of an update


def joined(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The numbers of all members in one dictionary, with their means over those that are finite.

    A mean is NaN where no member's number is finite: the loop stops when that is the loss.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        finite = [x for row in rows if math.isfinite(x := row.get(name, math.nan))]
        found[name] = sum(finite) / len(finite) if finite else math.nan
    return found | {f"{i}/{name}": x for i, row in enumerate(rows) for name, x in row.items()}


def split(values: Mapping[str, SupportsFloat], member: int) -> dict[str, SupportsFloat]:
    """The numbers of one member."""
    prefix = f"{member}/"
    return {n.removeprefix(prefix): x for n, x in values.items() if n.startswith(prefix)}


def by_member(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an update of all members, arrays [s]; counts are summed in place of means."""
    count = len(metrics["loss"])
    found = joined([{name: float(x[i]) for name, x in metrics.items()} for i in range(count)])
    found |= {name: float(metrics[name].sum()) for name in COUNTS}
    # The loop has to do with an update that no member could make; one member's is its own matter.
    found[SKIPPED] = float(metrics[SKIPPED].min())
    return {n: x for n, x in found.items() if x or not n.endswith(f"/{SKIPPED}")}


class MemberLogs:
    """The log of each member, as its own run would write it, and one of the means.

    Args:
        rates: learning rate of each member; the loop gives the schedule of a rate of 1.
    """

    def __init__(self, means: MetricLog, members: Sequence[MetricLog], rates: Sequence[float]):
        self.means, self.members, self._rates = means, members, rates

    def write(
        self,
        step: int,
        metrics: Mapping[str, SupportsFloat],
        *,
        timings: Mapping[str, SupportsFloat] | None = None,
    ) -> None:
        """Writes a line to each; the timings, which are of all together, to that of the means."""
        for i, (log, rate) in enumerate(zip(self.members, self._rates, strict=True)):
            log.write(step, split(metrics, i) | self._rate(metrics, rate))
        means = {name: x for name, x in metrics.items() if not name.partition("/")[0].isdigit()}
        mean_rate = sum(self._rates) / len(self._rates)
        self.means.write(step, means | self._rate(metrics, mean_rate), timings=timings)

    def _rate(self, metrics: Mapping[str, SupportsFloat], rate: float) -> dict[str, SupportsFloat]:
        name = "learning_rate"
        if name not in metrics:
            return {}
        return {name: np.float32(rate) * np.float32(metrics[name])}  # as a schedule multiplies

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes them to the log of the means; a data set draws none."""
        self.means.samples(step, rows)

    def at(self, step: int) -> dict[str, float]:
        """What is logged of a step, in the means."""
        return self.means.at(step)

    def rewind(self, step: int) -> int:
        """Drops, of all logs, what was written after `step`."""
        return sum(log.rewind(step) for log in [self.means, *self.members])

    def flush(self) -> None:
        """Brings all logs up to date."""
        for log in [self.means, *self.members]:
            log.flush()
