"""The loop, as a document: restore, evaluate, update, log, evaluate, save, in this order.

It knows nothing of methods, models or where batches come from.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.rollouts import DIFFERENCE
from alignax.core.types import Params, TrainState
from alignax.data.pipeline import DrawFailed, Drawn
from alignax.train.bad_updates import BadUpdates, OnBadUpdate
from alignax.train.bar import Bar
from alignax.train.checkpoint import Checkpoints
from alignax.train.metrics import Log, evaluated
from alignax.train.timer import Timer
from alignax.train.unlogged import Unlogged
from alignax.train.watchdog import Watchdog

log = logging.getLogger("alignax")

SAVE_SECONDS = 1800.0  # between two checkpoints, where `save_steps` says nothing
DRAWING = "draw"  # what a profile calls the time in which the loop has no arrays for an update

# (step, params) -> numbers to log
Evaluate = Callable[[int, Params], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """How long, in what portions, and how often to look up.

    Fields:
        batch_size: prompts in an optimiser step, over all devices and micro-batches: the global
            batch. Devices see batch_size / gradient_accumulation_steps / devices at a time.
        gradient_accumulation_steps: micro-batches to a step.
        num_train_epochs: passes over the data, whole steps only; `max_steps` overrides it.
        logging_steps, eval_steps, save_steps: updates between two; None for only at the end, and
            for a checkpoint about every half hour as well. What was drawn between two lines of the
            log is in the second: means over the drawings, sums of counts.
        keep: checkpoints that stay on disk; where bad updates roll back, what they go back to does
            in any case.
        on_bad_update: what follows an update whose loss or gradient is not finite, or whose
            gradient norm before clipping is above `largest_grad_norm`. It has changed nothing, and
            its batch is written out. "stop" ends the run; "skip" goes on with the next batch;
            "roll_back" does so from the parameters and moments of the newest checkpoint at a
            multiple of `save_steps`: one that was saved when the run was stopped is none, so that
            a run that goes on equals an unbroken one (but for `max_bad_updates`, which it counts
            anew). It reads each update before the next begins, so the host's work is not hidden.
        max_bad_updates: in a row, after which "skip" and "roll_back" end the run too.
        stall_seconds: without an update, after which it is printed where every thread stands, and
            again each time as much has passed; None for never.
    """

    batch_size: int = 64
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 1.0
    max_steps: int | None = None
    logging_steps: int = 1
    eval_steps: int | None = None
    save_steps: int | None = None
    keep: int = 2
    on_bad_update: OnBadUpdate = "stop"
    largest_grad_norm: float | None = None
    max_bad_updates: int = 5
    stall_seconds: int | None = 1800

    def num_steps(self, groups: int) -> int:
        """Updates of a run over this many groups; at least one."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.floor(self.num_train_epochs * groups / self.batch_size + 1e-9))

    def check(self) -> None:
        """Refuses counts that are not positive, and to roll back to no checkpoint."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not value > 0:
                raise BadInput(
                    "a positive number",
                    repr(value),
                    "Leave it out for the default.",
                    where=f"loop.{field.name}",
                )
        if self.on_bad_update == "roll_back" and self.save_steps is None:
            raise BadInput(
                "a number of updates between the checkpoints that bad updates roll back to",
                "None",
                "Give loop.save_steps, such as 100; or set loop.on_bad_update to skip.",
                where="loop.save_steps",
            )

    @property
    def target_steps(self) -> int | None:
        """Updates between two checkpoints that a run rolls back to; None where it does not."""
        return self.save_steps if self.on_bad_update == "roll_back" else None


@runtime_checkable
class Feed(Protocol):
    """Where batches come from: a data set, or samples of the policy."""

    def draw(self, params: Params) -> tuple[Any, Drawn]:
        """The arrays of the next update, given the policy's parameters before it.

        Raises:
            DrawFailed: in every process, and the position is as it was.
        """
        ...

    def position(self) -> dict[str, Any]:
        """Where the next update's arrays are, as JSON."""
        ...

    def missing(self, position: dict[str, Any]) -> str | None:
        """What is not there, or damaged, of all that it needs to go on from `position`."""
        ...

    def restore(self, position: dict[str, Any]) -> None:
        """Goes on from `position`."""
        ...

    def keep(self, positions: Sequence[Mapping[str, Any]]) -> None:
        """Deletes what it has stored and none of these positions goes on from."""
        ...


def floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Arrays without axes as numbers."""
    return {name: float(x) for name, x in metrics.items()}


class Interrupted(SystemExit):
    """The run was asked to stop, has saved its state, and can be resumed."""


def train(
    state: TrainState,
    step: Callable[..., tuple[TrainState, Mapping[str, jax.Array]]],
    feed: Feed,
    *,
    loop: Loop,
    num_steps: int,
    schedule: Callable[[int], Any],
    put: Callable[[Any], Any],
    checkpoints: Checkpoints,
    metrics: Log,
    evaluate: Evaluate | None,
    experiment: dict[str, Any],
    whole: Callable[[Params], Params] = lambda params: params,
    numbers: Callable[[Mapping[str, Any]], dict[str, float]] = floats,
    check_first: Callable[[Mapping[str, float]], None] | None = None,
    show: Callable[[int, Drawn], None] | None = None,
    keep_bad: Callable[[int, Any], Path] | None = None,
    timings: Callable[[], Mapping[str, float]] = dict,
    unlogged: Unlogged | None = None,
    quiet: bool = False,
) -> TrainState:
    """Runs updates until `num_steps`, from wherever `state` and `feed` stand.

    At each step the log is written before the checkpoint, so that a resumed run, which drops what
    was logged after its checkpoint, leaves the same log as an unbroken one.

    Args:
        state: consumed: its buffers are donated to the first update.
        step: the compiled update.
        put: takes a step's arrays to the devices.
        evaluate: called before the first update of a fresh run and every `eval_steps`; what
            measures nothing leaves no line.
        experiment: stored with each checkpoint.
        whole: all parameters of the model from those of the state, for feed and evaluation.
        numbers: what is logged of an update, by name, from the metrics that `step` gives.
        check_first: sees the metrics of the very first update, and raises where they are wrong.
        show: sees what was drawn for an update, where something was.
        keep_bad: writes out the arrays of an update that was skipped, and says where.
        timings: further numbers for `timings.jsonl`, since it was last called.
        unlogged: what an earlier process has drawn and not logged.

    Raises:
        Interrupted: after SIGTERM or SIGINT, with everything saved.
        BadInput: a bad update, where `loop` says to stop.
        DrawFailed: the feed cannot go on, or a reward fails in an evaluation, which the run makes
            up for when it goes on; with everything saved.
    """
    begin, unlogged = int(state.step), unlogged or Unlogged()
    # All at once and before: asked for one by one, each would wait for the update that runs.
    learning_rates = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(num_steps)))
    every = lambda interval, i: interval is not None and i % interval == 0  # noqa: E731

    due = lambda i: evaluate is not None and (i == num_steps or every(loop.eval_steps, i))  # noqa: E731
    # --- Evaluation before. A resumed run has it in its log, unless a reward failed in it.
    if evaluate is not None and (begin == 0 or (due(begin) and not evaluated(metrics, begin))):
        if found := evaluate(begin, whole(state.params)):
            metrics.write(begin, found)
        metrics.flush()

    # --- Metrics of an update are read while the next one runs, so that the device never waits.
    clock = _Clock()
    pending: _Pending | None = None
    bad = BadUpdates(loop.on_bad_update, loop.max_bad_updates, keep_bad)
    by_clock = Timer(SAVE_SECONDS if loop.save_steps is None else None, begin)
    # Those of a run that rolls back are read at once: which update follows a bad one must not
    # depend on where the run was stopped.
    at_once = loop.on_bad_update == "roll_back"

    def read(pending: _Pending) -> None:
        i, arrays, drawn = pending.step, pending.values, pending.drawn
        # One transfer for all; reading also waits for the update to end.
        values = {**numbers(jax.device_get(dict(arrays))), **drawn.metrics}
        seconds, fetching = clock.lap()
        bad.look(i, values, pending.arrays)
        if check_first is not None and i == 1:
            check_first(values)
        values["learning_rate"] = float(learning_rates[i - 1])
        unlogged.add(drawn.metrics)
        bar.show(i, values, seconds)
        if drawn.samples:
            metrics.samples(i, drawn.samples)
            if show is not None:
                show(i, drawn)
        if i % loop.logging_steps == 0 or i == num_steps:
            rates = {"seconds": seconds, "seconds_fetching": fetching,
                     "tokens_per_second": values["num_tokens"] / seconds, **timings()}  # fmt: skip
            held = unlogged.taken()
            if not drawn.metrics:  # the update's own says how far it is from its drawing
                held.pop(DIFFERENCE, None)
            metrics.write(i, {**values, **held}, timings=rates)

    def save(i: int, state: TrainState) -> None:
        metrics.flush()  # a checkpoint is never ahead of the log
        position = {**feed.position(), **unlogged.position()}
        checkpoints.save(i, state, position=position, experiment=experiment)
        feed.keep(checkpoints.positions())

    def settle() -> None:
        """The last save runs beside all else; nobody leaves before it is whole."""
        checkpoints.wait()
        processes.meet("the last save")
        checkpoints.tidy()
        feed.keep(checkpoints.positions())

    def save_what_is_learnt(i: int, state: TrainState) -> None:
        if pending is not None:
            read(pending)
        save(i, bad.rolled_back(state, checkpoints))

    def leave(i: int, state: TrainState) -> None:
        if i == begin:
            return
        save_what_is_learnt(i, state)
        settle()
        log.warning("saved step %d of %d; run again to go on", i, num_steps)

    # --- The updates. A request to stop is honoured between two of them, and after the last save.
    i, asked = begin, False
    with (
        processes.listening() as stop,
        Bar(begin, num_steps, quiet) as bar,
        Watchdog(loop.stall_seconds) as watchdog,
    ):
        clock.lap()
        for i in range(begin + 1, num_steps + 1):
            with clock.fetching(), jax.profiler.TraceAnnotation(DRAWING):
                try:
                    arrays, drawn = feed.draw(whole(state.params))
                except DrawFailed:
                    leave(i - 1, state)
                    raise
                arrays = put(arrays)
            state, values = step(state, *arrays)
            watchdog.update()
            if pending is not None:
                read(pending)
            pending = _Pending(i, values, drawn, arrays)
            asked = processes.asked_to_stop(i, bool(stop))
            saving = i == num_steps or asked or every(loop.save_steps, i) or by_clock.due(i)
            looking = due(i) and not asked  # which is made up for when the run goes on
            if saving or looking or at_once:
                read(pending)  # the log is complete up to what is saved
                pending = None
            state = bad.rolled_back(state, checkpoints)
            if looking and evaluate is not None:
                try:
                    if found := evaluate(i, whole(state.params)):
                        metrics.write(i, found)
                except DrawFailed:
                    leave(i, state)
                    raise
            if saving:
                save(i, state)
            if looking or saving:
                clock.lap()
            asked = asked or bool(stop)  # since then, in a single process: a drawing may be long
            if asked and not saving:
                save_what_is_learnt(i, state)
            if asked:
                break
        settle()
    if asked or stop:
        name = stop[0].name if stop else "asked to stop"
        log.warning("%s: saved step %d of %d; run again to go on", name, i, num_steps)
        raise Interrupted(0)
    return state


class _Pending(NamedTuple):
    """An update that was launched and is not yet read."""

    step: int
    values: Mapping[str, jax.Array]
    drawn: Drawn
    arrays: Any


class _Clock:
    """Wall time between laps, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self._last, self._waited = time.perf_counter(), 0.0

    def lap(self) -> tuple[float, float]:
        now = time.perf_counter()
        spent, waited = now - self._last, self._waited
        self._last, self._waited = now, 0.0
        return spent, waited

    def fetching(self) -> "_Clock":
        return self

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._waited += time.perf_counter() - self._began
