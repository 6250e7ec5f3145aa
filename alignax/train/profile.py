"""Where a step's time goes: a trace of some updates, and their seconds by part of the model.

    output_dir/profile/
        trace.json.gz       every operation on a time line, for ui.perfetto.dev or chrome://tracing
        steps.html          the table of seconds by part, for any browser
        plugins/profile/    the same trace for TensorBoard and XProf

An operation belongs to the innermost `jax.named_scope` that it was traced in. XLA fuses operations
of neighbouring parts; what is fused counts where its last operation does.
"""

import io
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.train.loop import DRAWING

WARM_UP = 2  # updates before the trace: the first is compiled, and buffers find their places
PARTS = ("embedding", "projections", "attention", "mlp", "head", "loss", "optimiser")
PASSES = ("forward", "recomputed", "backward")
OTHER = "other operations"
BESIDE = "other programs"  # that run between updates: drawing, judging, references, measurements
WAITING = "no operation runs"
# They only call other operations, which are in the trace too.
_CALLERS = {"while", "call", "conditional"}

_MODULE = re.compile(r"^HloModule (?P<name>[\w.-]+)")
# %name = shape opcode(operands), ..., metadata={op_name="scopes"}
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%(?P<name>[\w.-]+) = .*? (?P<opcode>[\w-]+)\("
    r'(?:.*?op_name="(?P<scopes>[^"]*)")?'
)


class Operation(NamedTuple):
    """One that ran: its part and pass, and when, in nanoseconds."""

    part: str
    direction: str
    start: float
    end: float


class Profile:
    """Traces a few updates of a run, once it is warm.

    Args:
        directory: where it is written; an earlier profile there is replaced.
        steps: updates that are traced.

    Example:
        >>> profile = Profile(Path("runs/dpo/profile"), steps=3)
        >>> step = profile.of(step)  # used in place of the update
        >>> # ... train ...
        >>> profile.table()
    """

    def __init__(self, directory: Path, *, steps: int):
        if steps < 1:
            raise BadInput("at least 1 step", str(steps), "Trace some, or none.", where="--profile")
        self.directory, self.steps = directory, steps
        self._calls, self._programs = 0, {}
        self._known: set[str] = set()  # shapes of the arguments of programs that are told apart

    def check(self, num_steps: int) -> None:
        """Refuses a run with too few updates to come."""
        if num_steps < WARM_UP + self.steps:
            raise BadInput(
                f"{WARM_UP + self.steps} updates to come, {WARM_UP} of them before the trace",
                str(num_steps),
                "Trace fewer, raise loop.max_steps, or give a new output_dir.",
                where="--profile",
            )

    def of(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The update, traced when its turn has come; in the first process of a run.

        Args:
            step: what `jax.jit` gives.
        """
        if not processes.is_first():
            return step

        def traced(*arguments: Any) -> Any:
            self._calls += 1
            number = self._calls - WARM_UP
            shapes = str(jax.tree.map(jax.typeof, arguments))
            if 1 <= number <= self.steps and shapes not in self._known:
                self._known.add(shapes)
                lowered = step.lower(*arguments)  # found in memory, as is what it compiles to
                self._programs |= programs_of(lowered.compile().as_text())
            if number == 1:
                jax.block_until_ready(arguments)
                self._start()
            with jax.profiler.StepTraceAnnotation("train", step_num=self._calls):
                result = step(*arguments)
            if number == self.steps:
                jax.block_until_ready(result)
                self._stop()
            return result

        return traced

    def _start(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it slows what it measures
        jax.profiler.start_trace(
            self.directory, create_perfetto_trace=True, profiler_options=options
        )

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        (made,) = self.directory.glob("plugins/profile/*/perfetto_trace.json.gz")
        made.replace(self.directory / "trace.json.gz")
        console = Console(record=True, file=io.StringIO(), width=100)
        console.print(self.table())
        console.save_html(str(self.directory / "steps.html"))

    @property
    def how_to_open(self) -> str:
        """Where the profile is, for the user."""
        return (
            f"{self.directory}: open steps.html in a browser, and trace.json.gz in "
            "https://ui.perfetto.dev or chrome://tracing"
        )

    def table(self) -> Table:
        """Seconds of a traced update by part, and by pass of the model."""
        (path,) = self.directory.glob("plugins/profile/*/*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        begin, end, drawing = _span(data)
        shared = shares(operations(data, self._programs), begin, end)
        return _table(shared, end - begin, drawing, self.steps)


Programs = dict[tuple[str, str], tuple[str, str]]


def programs_of(text: str) -> Programs:
    """Part and pass of every operation of a compiled program that does work itself.

    Args:
        text: the program as XLA prints it.

    Returns:
        By the names of the program and of the operation, for other programs have operations of
        the same names.
    """
    found = {}
    module = _MODULE.match(text)
    assert module is not None
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match and match["opcode"] not in _CALLERS:
            found[module["name"], match["name"]] = _place(match["scopes"] or "")
    return found


def _place(scopes: str) -> tuple[str, str]:
    """`jit(update)/transpose(jvp(mlp))/dot_general` is of the MLP, backward."""
    words = re.findall(r"\w+", scopes)
    part = next((word for word in reversed(words) if word in PARTS), OTHER)
    if part in ("optimiser", OTHER):
        return part, ""
    if "rematted_computation" in words:
        return part, "recomputed"
    return part, "backward" if "transpose" in words else "forward"


def operations(data: Any, programs: Programs) -> Iterator[Operation]:
    """What ran, on all threads and devices; of other programs than the update too.

    Args:
        data: a `jax.profiler.ProfileData`.
        programs: part and pass of the operations of the update.
    """
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    own = {module for module, _ in programs}
    for plane in devices or planes:  # the host's events of work on a device are its launches
        for event in (event for line in plane.lines for event in line.events):
            told = dict(event.stats)
            if "hlo_op" not in told:
                continue
            module = told.get("hlo_module")
            place = programs.get((str(module), told["hlo_op"]))
            if place is None and module not in own:
                place = BESIDE, ""
            if place is not None:  # or it only calls others
                yield Operation(*place, event.start_ns, event.end_ns)


def shares(ran: Iterable[Operation], begin: float, end: float) -> dict[tuple[str, str], float]:
    """How long each part and pass ran between two times, in nanoseconds.

    An instant at which several operations run is shared among them, so that all add up to the
    time in which something ran.
    """
    changes: list[tuple[float, int, tuple[str, str]]] = []
    for part, direction, start, stop in ran:
        start, stop = max(start, begin), min(stop, end)
        if start < stop:
            changes += [(start, 1, (part, direction)), (stop, -1, (part, direction))]
    changes.sort()
    found: dict[tuple[str, str], float] = defaultdict(float)
    running: dict[tuple[str, str], int] = defaultdict(int)
    last = begin
    for time, change, place in changes:
        count = sum(running.values())
        for other, number in running.items() if count else ():
            found[other] += (time - last) * number / count
        running[place] += change
        last = time
    return dict(found)


def _span(data: Any) -> tuple[float, float, float]:
    """When the traced updates began and ended, and how long the loop had no arrays for them."""
    events = [
        event
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name in ("train", DRAWING) or "hlo_op" in dict(event.stats)
    ]
    begin = min(event.start_ns for event in events if event.name == "train")
    drawing = sum(event.duration_ns for event in events if event.name == DRAWING)
    return begin, max(event.end_ns for event in events), drawing


def _table(shared: dict[tuple[str, str], float], span: float, drawing: float, steps: int) -> Table:
    def seconds(nanoseconds: float) -> str:
        return f"{nanoseconds / steps / 1e9:.3f}" if nanoseconds else ""

    title = f"seconds of an update, mean of {steps}: {seconds(span)}"
    table = Table("part", *PASSES, "in all", "share", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for part in (*PARTS, OTHER, BESIDE):
        each = [shared.get((part, direction), 0.0) for direction in PASSES]
        whole = sum(each) + shared.get((part, ""), 0.0)
        table.add_row(part, *map(seconds, each), seconds(whole), f"{whole / span:.1%}")
    waiting = span - sum(shared.values())
    table.add_row(WAITING, "", "", "", seconds(waiting), f"{waiting / span:.1%}")
    table.caption = f"the loop waited {drawing / steps / 1e6:.1f} ms an update for its arrays"
    return table
