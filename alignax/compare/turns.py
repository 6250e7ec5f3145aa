"""Which cell a process runs next: one whose programs it has compiled already, where there is one.

Cells of an entry share compiled programs within a process. Two processes that take cells in turn
compile nearly everything twice, at the same time; so each entry has a process of its own, until
nothing else is left to do.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from alignax.compare.cells import Cell


class Turns:
    """Hands out cells, each once, to processes that ask from a thread each.

    Args:
        kind: of a cell; those of one kind share programs.
    """

    def __init__(self, kind: Callable[[Cell], str]):
        self._kind = kind
        self._home: dict[str, int] = {}
        self._left: list[Cell] = []
        self._busy, self._closed = 0, False
        self._changed = threading.Condition(threading.RLock())

    def add(self, cells: Iterable[Cell]) -> None:
        """More to do, after what there is."""
        with self._changed:
            self._left += () if self._closed else cells
            self._changed.notify_all()

    def of(self, process: int, ended: Callable[[Cell], None]) -> Iterator[Cell]:
        """The cells of a process, until none is left and none is run that might ask for more.

        Args:
            ended: called with each cell once it was run, by one thread at a time.
        """
        while True:
            with self._changed:
                while (cell := self.next(process)) is None and self._busy:
                    self._changed.wait()
                if cell is None:
                    return
                self._busy += 1
            try:
                yield cell
                with self._changed:
                    if not self._closed:
                        ended(cell)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def next(self, process: int) -> Cell | None:
        """The first cell left of a kind that this process has run; else the first of a kind that
        none has; else one of the kind with most left. None where nothing is left."""
        with self._changed:
            kinds = [self._kind(cell) for cell in self._left]
            own = [k for k in kinds if self._home.get(k) == process]
            new = [k for k in kinds if k not in self._home]
            if not kinds:
                return None
            kind = (own or new or [Counter(kinds).most_common(1)[0][0]])[0]
            self._home.setdefault(kind, process)
            return self._left.pop(kinds.index(kind))

    def close(self) -> None:
        """Nothing more, whatever is added."""
        with self._changed:
            self._left, self._closed = [], True
