"""The nearest change that makes an update fit, and forecasts as tables for people."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.table import Table

from alignax.config import Experiment
from alignax.core.errors import BadInput
from alignax.forecast import Boxes, Forecast, forecast
from alignax.topology import GIB, Topology
from alignax.train.collectives import Collective


class Change(NamedTuple):
    """Of an experiment: as words of the command line, and as fields of one of its parts."""

    words: str
    part: str
    fields: Mapping[str, Any]

    def made(self, experiment: Experiment) -> Experiment:
        """The experiment with the change."""
        part = dataclasses.replace(getattr(experiment, self.part), **self.fields)
        return dataclasses.replace(experiment, **{self.part: part})


def nearest_that_fits(
    experiment: Experiment, topology: Topology, boxes: Boxes
) -> tuple[Forecast, Forecast | None]:
    """The forecast; and where it does not fit, that of the first of `candidates` which does."""
    first = forecast(experiment, topology, boxes)
    if first.fits:
        return first, None
    for changes in candidates(experiment, len(topology.devices)):
        changed = experiment
        for change in changes:
            changed = change.made(changed)
        try:
            found = forecast(changed, topology, boxes, tuple(x.words for x in changes))
        except BadInput:  # does not divide: a change that cannot be is none
            continue
        if found.fits:
            return first, found
    return first, None


def candidates(experiment: Experiment, devices: int) -> list[tuple[Change, ...]]:
    """Changes that save memory, each alone before they come together, the cheaper ones first.

    Parameters split over all of `data` too cost traffic; blocks computed again a third more
    arithmetic; and smaller micro-batches all traffic of parameters, once for each of them.
    """
    once: list[Change] = []
    data, fsdp, sequence, tensor = experiment.mesh.sizes(devices)
    if data > 1:
        words = f"--mesh.data 1 --mesh.fsdp {data * fsdp}"
        whole = {"data": 1, "fsdp": data * fsdp, "sequence": sequence, "tensor": tensor}
        once.append(Change(words, "mesh", whole))
    if experiment.model.remat != "block":
        once.append(Change("--model.remat block", "model", {"remat": "block"}))
    smaller: list[Change] = []
    name, steps = "gradient_accumulation_steps", experiment.loop.gradient_accumulation_steps
    while experiment.loop.batch_size % (2 * steps * data * fsdp) == 0:
        steps *= 2
        words = f"--loop.{name.replace('_', '-')} {steps}"
        smaller.append(Change(words, "loop", {name: steps}))
    found: list[tuple[Change, ...]] = [(change,) for change in (*once, *smaller)]
    if len(once) > 1:
        found.append(tuple(once))
    if once:
        found += [(*once, change) for change in smaller]
    return found


def tables(found: Forecast) -> list[Table | str]:
    """For people."""
    chip, memory, room = found.topology.chip, found.memory, found.room
    made: list[Table | str] = []
    if memory is not None:
        table = Table(title="bytes on each device, GiB", show_header=False)
        table.add_column(justify="left")
        table.add_column(justify="right")
        for name, value in memory._asdict().items():
            inside = "  of it " if name in ("gradients", "block_inputs") else ""
            table.add_row(inside + name.replace("_", " "), f"{value / GIB:.3f}")
        if room is not None:
            table.add_row("there is", f"{room / GIB:.1f}")
        made.append(table)
    kinds: dict[tuple[str, int], list[Collective]] = {}
    for one in found.traffic:
        kinds.setdefault((one.kind, one.devices), []).append(one)
    if kinds:
        table = Table("collective", "devices", "times", "sent by each, GiB", title="traffic")
        for (kind, devices), ones in sorted(kinds.items()):
            sent = sum(x.sent for x in ones) / GIB
            table.add_row(kind, str(devices), str(sum(x.times for x in ones)), f"{sent:.3f}")
        made.append(table)
    said = (
        f"[bold]arithmetic[/]: {found.flops / 1e12:,.1f} TFLOP an update, {found.tokens:,} tokens"
    )
    if chip is not None and memory is not None:
        said += (
            f"\n[bold]an update takes[/] {found.at_least:.3f} to {found.at_most:.3f} s: arithmetic "
            f"{found.compute:.3f}, traffic {found.links:.3f}, reading and writing the state "
            f"{found.state:.3f}; from all of it side by side to none. A bound and no promise."
        )
    if found.topology.stands_in:
        said += (
            "\nCompiled for virtual CPUs on the same mesh: what is given and its traffic are the "
            "GPUs' too, what is temporary is XLA:CPU's, without cuDNN's attention."
        )
    return [*made, said, f"[bold]{found.topology.name}[/]: {_verdict(found)}"]


def _verdict(found: Forecast) -> str:
    needed = f"{found.needed / GIB:.2f}"
    if found.room is None:
        return f"no limit of memory is known, {needed} GiB on each device"
    fits = "[green]fits[/]" if found.fits else "[red]does not fit[/]"
    return f"{fits}, {needed} of {found.room / GIB:.1f} GiB"


def described(first: Forecast, change: Forecast | None) -> list[Table | str]:
    """The forecast, and what would make it fit."""
    if first.fits:
        return tables(first)
    if change is None:
        return [*tables(first), "No change of mesh.fsdp, remat or micro-batches makes it fit."]
    return [*tables(first), f"[bold]fits with[/] {' '.join(change.changes)}:", *tables(change)]
