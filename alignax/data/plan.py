"""The plan of a run: which groups form which step, and where each lies in its rows.

A pure function of (lengths, seed, batch size, accumulation, shards): no state, so any step can be
asked for at any time, and the number of the step is the whole position in the data.

The order is a new permutation each epoch, one epoch after another without a seam. It is cut into
windows of an epoch or less, and inside a window groups are dealt to steps so that all have nearly
the same number of tokens and of scored tokens. Then the groups of a step are dealt in the same
way to *units*: a device's share of a micro-batch. That is what lets one compiled shape serve all
steps with little padding although the number of groups in a step is fixed. Long and short groups
still meet at random, but no step is long as a whole.

Which groups form a step depends on nothing but lengths, seed and batch size, or is given outright
as a table, an order made elsewhere. Micro-batches and devices only decide where in the step a group
lies, so a run may go on with more or fewer of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alignax.core.errors import BadInput
from alignax.core.types import ROW_ALIGN
from alignax.data.dealing import deal, pack, part_twins
from alignax.data.row_shapes import Shape, fewest_tokens, reaches, round_up

WINDOW = 8192  # groups, about, that are dealt to steps together


class Lengths(NamedTuple):
    """Token counts of every group of a data set. A response that is not there counts 0."""

    prompt: Int[np.ndarray, " g"]
    response: Int[np.ndarray, "g k"]
    scored: Int[np.ndarray, "g k"]

    @property
    def total(self) -> Int[np.ndarray, " g"]:
        """Tokens of the prompt, once, and of all responses to it."""
        return self.prompt + self.response.sum(axis=1)

    @property
    def load(self) -> Float[np.ndarray, "g 2"]:
        """Tokens, and scored tokens, of every group, as multiples of their means."""
        both = np.stack([self.total, self.scored.sum(axis=1)], axis=1).astype(np.float64)
        return both / np.maximum(both.mean(axis=0), 1.0)


class Placement(NamedTuple):
    """One step: which groups, and where each begins. -1 stands for no group.

    `a` counts the micro-batches of the step.
    """

    group: Int[np.ndarray, "a b"]
    row: Int[np.ndarray, "a b"]
    offset: Int[np.ndarray, "a b"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Every step of a run. Make it with `make_plan`.

    Fields:
        lengths: of the data set's groups.
        shape: of every step.
        accumulation: micro-batches to a step.
        num_steps: of the run.
        seed: of the order; None for the order of the data set.
        once: whether the stream of groups ends after one pass, rather than going on.
        order: the groups of every step, where they are given; -1 for none. `seed` is not used.
    """

    lengths: Lengths
    shape: Shape
    accumulation: int
    num_steps: int
    seed: int | None
    once: bool
    order: Int[np.ndarray, "steps b"] | None = None

    def __len__(self) -> int:
        return self.num_steps

    def __getstate__(self) -> dict[str, Any]:
        # What is cached stays behind.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def step(self, index: int) -> Placement:
        """The groups of step `index`, from 0, and their places."""
        if not 0 <= index < self.num_steps:
            raise IndexError(f"step {index} of a plan of {self.num_steps}")
        window, within = divmod(index, self.window)
        part = slice(within * self.accumulation, (within + 1) * self.accumulation)
        return Placement(*(x[part] for x in self._window(window)))

    @functools.cached_property
    def _window(self) -> Callable[[int], Placement]:
        """Of each plan its own: those of a sweep are read in turn."""
        return functools.lru_cache(maxsize=2)(self._packed)

    def _packed(self, window: int) -> Placement:
        units, shape = self.units(window), self.shape
        placed = pack(self.lengths.total, units, shape.rows // shape.shards, shape.row_length)
        assert placed is not None, "make_plan has packed every window"
        row, offset = placed
        shard = np.arange(len(units))[:, None] % shape.shards
        row = row + shard * (shape.rows // shape.shards)
        return Placement(*(x.reshape(-1, shape.groups) for x in (units, row, offset)))

    def units(self, window: int) -> Int[np.ndarray, "u c"]:
        """The groups of each unit of a window, evened out; the units of a step are neighbours."""
        steps = self.steps(window)
        units = self.accumulation * self.shape.shards
        dealt = deal(self._load(steps), units).reshape(len(steps), -1)
        return np.take_along_axis(steps, dealt, axis=1).reshape(len(steps) * units, -1)

    def steps(self, window: int) -> Int[np.ndarray, "w c"]:
        """The groups of each step of a window, evened out."""
        first, size = window * self.window, self.batch_size
        steps = min(first + self.window, self.num_steps) - first
        groups = self._stream(first * size, (first + steps) * size)
        if self.order is not None:
            return groups.reshape(steps, size)  # nothing is dealt across steps
        load = self._load(groups)
        dealt = part_twins(groups, load, deal(load[None], steps)[0])
        if self.seed is None:  # else the first step would always hold the heaviest group
            return groups[dealt]
        return groups[dealt[generator(self.seed, 1, window).permutation(steps)]]

    def _load(self, groups: Int[np.ndarray, "*i"]) -> Float[np.ndarray, "*i 2"]:
        """The load of each; none for -1."""
        return np.where((groups >= 0)[..., None], self._loads[groups], 0.0)

    @functools.cached_property
    def _loads(self) -> Float[np.ndarray, "g 2"]:
        return self.lengths.load  # once for all windows, of which there may be one a step

    def _stream(self, begin: int, end: int) -> Int[np.ndarray, " g"]:
        """Groups `begin` to `end` of the stream of epochs, or of the order; -1 for none."""
        if self.order is not None:
            return self.order.ravel()[begin:end]
        size = len(self.lengths.prompt)
        index = np.arange(begin, end)
        if self.seed is None:
            stream = index % size
        else:
            epochs = range(begin // size, -(-end // size))
            orders = [generator(self.seed, 0, epoch).permutation(size) for epoch in epochs]
            stream = np.concatenate(orders)[begin - epochs[0] * size :][: end - begin]
        return np.where(index < size, stream, -1) if self.once else stream

    @property
    def groups(self) -> Int[np.ndarray, " g"]:
        """The groups that the run meets, each once, in the order of the data set."""
        met = np.unique(self._stream(0, self.num_steps * self.batch_size))
        return met[met >= 0]

    @property
    def batch_size(self) -> int:
        """Groups to a step."""
        return self.accumulation * self.shape.groups

    @property
    def window(self) -> int:
        """Steps to a window: about an epoch, or less where that is long."""
        epoch = WINDOW if self.order is not None else len(self.lengths.prompt)
        return max(1, min(WINDOW, epoch) // self.batch_size)

    @property
    def num_windows(self) -> int:
        """Windows of the run, the last perhaps a short one."""
        return -(-self.num_steps // self.window)

    @property
    def padding(self) -> float:
        """Share of the rows' tokens that is padding, over the whole run."""
        groups = self._stream(0, self.num_steps * self.batch_size)
        used = int(self.lengths.total[groups[groups >= 0]].sum())
        room = self.num_steps * self.accumulation * self.shape.rows * self.shape.row_length
        return 1.0 - used / room


def make_plan(
    lengths: Lengths,
    *,
    batch_size: int,
    accumulation: int = 1,
    num_steps: int | None = None,
    seed: int | None = None,
    shards: int = 1,
    align: int = ROW_ALIGN,
    order: Int[np.ndarray, "steps b"] | None = None,
) -> Plan:
    """Chooses the shape with the fewest tokens that holds every step, and lays out the run.

    Args:
        batch_size: groups in an optimiser step, over all devices and micro-batches.
        accumulation: micro-batches that the step is cut into.
        num_steps: of the run. None for one pass that meets every group exactly once, its last
            batch filled up with empty groups.
        seed: of the order. None keeps the order of the data set, but for the evening out.
        shards: devices that a micro-batch is split over.
        align: row lengths are multiples of this.
        order: the groups of every step, -1 for none. Then `num_steps` and `batch_size` must be its
            shape's, or `num_steps` None, and nothing is evened out but within a step.

    Raises:
        BadInput: a batch that micro-batches or devices cannot split evenly; no groups; an order
            of another shape, or with groups that are not there.
    """
    groups, size = batch_size // accumulation, len(lengths.prompt)
    if size == 0:
        raise BadInput("at least one group", "none", "Look at what was dropped, and why.")
    check_batch(batch_size, accumulation, shards)
    if order is not None:
        num_steps = len(order) if num_steps is None else num_steps
        _check_order(order, (num_steps, batch_size), size)
    shape = Shape(
        groups=groups,
        responses=lengths.response.shape[1],
        shards=shards,
        rows=0,
        row_length=0,
        scored=0,
        prompt=int(lengths.prompt.max()),
        response=int(lengths.response.max()),
        reach=(),
    )
    once = num_steps is None
    steps = -(-size // batch_size) if num_steps is None else num_steps
    return alike([Plan(lengths, shape, accumulation, steps, seed, once, order)], align=align)[0]


def check_batch(batch_size: int, accumulation: int, shards: int) -> None:
    """Refuses a batch that micro-batches or devices cannot split evenly."""
    if batch_size % accumulation:
        raise BadInput(
            f"a batch size that {accumulation} micro-batches can split evenly",
            f"{batch_size} prompts",
            f"Use a multiple of {accumulation}.",
            where="loop.batch_size",
        )
    if batch_size // accumulation % shards:
        raise BadInput(
            f"a batch that {shards} devices on the axes data and fsdp can split evenly",
            f"{batch_size // accumulation} prompts in each of {accumulation} micro-batches",
            f"Use a multiple of {shards * accumulation}.",
            where="loop.batch_size",
        )


def alike(plans: Sequence[Plan], *, align: int = ROW_ALIGN) -> list[Plan]:
    """The plans with one shape: the one with the fewest tokens that holds every step of all.

    Args:
        plans: of one data set, which differ in seed or order alone.
        align: row lengths are multiples of this.
    """
    lengths, shape = plans[0].lengths, plans[0].shape
    windows = [plan.units(window) for plan in plans for window in range(plan.num_windows)]
    scored = np.append(lengths.scored.sum(axis=1), 0)  # the last for -1, no group
    shape = dataclasses.replace(
        shape, rows=shape.groups, row_length=round_up(int(lengths.total.max()), align)
    )  # a group a row always packs
    shape = fewest_tokens(lengths.total, windows, shape, align)
    shape = dataclasses.replace(
        shape,
        scored=round_up(max(int(scored[units].sum(axis=1).max()) for units in windows), 8),
        reach=reaches(lengths.total, windows, shape),
    )
    return [dataclasses.replace(plan, shape=shape) for plan in plans]


def shaped(plan: Plan, shape: Shape) -> Plan:
    """The plan with the shape of others, as `alike` has made it of them and of this one.

    Raises:
        BadInput: a step of the plan that it does not hold.
    """
    total, own = plan.lengths.total, plan.shape
    windows = [plan.units(window) for window in range(plan.num_windows)]
    scored = np.append(plan.lengths.scored.sum(axis=1), 0)
    per_shard = shape.rows // shape.shards
    holds = (
        (own.groups, own.responses, own.shards) == (shape.groups, shape.responses, shape.shards)
        and max(own.prompt - shape.prompt, own.response - shape.response) <= 0
        and all(int(scored[units].sum(axis=1).max()) <= shape.scored for units in windows)
        and all(pack(total, x, per_shard, shape.row_length) is not None for x in windows)
        and all(x <= y for x, y in zip(reaches(total, windows, shape), shape.reach, strict=True))
    )
    if not holds:
        raise BadInput("a shape that holds every step of the plan", str(shape),
                       "Make it of plans among which this one is.")  # fmt: skip
    return dataclasses.replace(plan, shape=shape)


def _check_order(order: Int[np.ndarray, "steps b"], shape: tuple[int, int], size: int) -> None:
    if order.shape != shape:
        raise BadInput(
            f"an order of the shape (steps, groups to a step) {shape}",
            f"{order.shape}",
            "Make the order with the run's number of steps and batch size.",
        )
    strange = order[(order < -1) | (order >= size)]
    if strange.size:
        raise BadInput(
            f"an order of groups from 0 to {size - 1}",
            f"group {strange[0]}",
            "Make the order from the data set that the plan is made for.",
        )


def generator(seed: int, purpose: int, index: int) -> np.random.Generator:
    """Random numbers for one purpose; `index` counts the times that it needs some."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, index])))
