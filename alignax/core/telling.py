"""How far something has come, where no terminal can draw a bar: in a file, or a pod's log.

rich shows a bar there once, at its end. A line now and then says that all goes on.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

EVERY = 30.0  # seconds from one line to the next

T = TypeVar("T")


def drawn(console: Console) -> bool:
    """Whether a bar on it moves: on a terminal that has a cursor, and in a notebook."""
    return (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter


class Lines:
    """Lines in place of a bar that does not move; nothing where one does.

    Args:
        first: whether the first is due at once, and not after `EVERY` seconds.
        clock: seconds from any moment.
    """

    def __init__(
        self, console: Console, *, first: bool = False, clock: Callable[[], float] = time.monotonic
    ):
        self._console, self._clock, self._quiet = console, clock, drawn(console)
        self._began = clock()
        self._due = self._began if first else self._began + EVERY

    def say(self, text: str, done: int, total: int, begin: int = 0) -> None:
        """A line where one is due: `text`, and the time that the rest will take.

        Args:
            done, total: of what is counted, `begin` of which were there at the start.
        """
        now = self._clock()
        if self._quiet or now < self._due:
            return
        self._due = now + EVERY
        took = now - self._began
        left = took / (done - begin) * (total - done) if done > begin else None
        times = span(took) + (f", {span(left)} left" if left is not None else "")
        line = f"{text}  {done}/{total}  {times}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def span(seconds: float) -> str:
    """Hours, minutes and seconds, as bars write them: 0:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def through(steps: Iterable[T], total: int, title: str, console: Console) -> Iterator[T]:
    """`steps`, with a bar or lines beside them."""
    if drawn(console):
        yield from track(steps, description=title, total=total, console=console)
        return
    lines = Lines(console)
    for done, step in enumerate(steps, 1):
        yield step
        lines.say(title, done, total)
