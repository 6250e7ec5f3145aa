"""The line at the bottom of the terminal while a run trains; lines in a log where there is none."""

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from alignax.core.telling import Lines, drawn

SHOWN = ("reward", "accuracies")  # names whose values stand beside the bar, the first there is
NAMES = {"rewards/accuracies": "accuracy"}


class Bar:
    """Step, loss, tokens a second, time left."""

    def __init__(
        self,
        begin: int,
        total: int,
        quiet: bool,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        console = console or Console()
        self._begin, self._total = begin, total
        lines = quiet or drawn(console)
        self._lines = None if lines else Lines(console, first=True, clock=clock)
        self._bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[extra]}", markup=False),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet,
        )
        self._task = self._bar.add_task(
            "train", total=total, completed=begin, loss="-", extra="", speed=""
        )

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """What an update gave, and how long it took."""
        name = next((n for n in ("reward", *values) if n in values and n.endswith(SHOWN)), None)
        loss = f"{values['loss']:.4f}"
        extra = f"{NAMES.get(name, name)} {values[name]:.2f}" if name else ""
        speed = f"{values['num_tokens'] / max(seconds, 1e-9):,.0f} tokens/s"
        self._bar.update(self._task, completed=step, loss=loss, extra=extra, speed=speed)
        if self._lines is not None:
            text = "  ".join(x for x in ("train", f"loss {loss}", extra, speed) if x)
            self._lines.say(text, step, self._total, self._begin)
