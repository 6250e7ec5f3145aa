"""Which cell a process runs next: one whose programs it has compiled already, where there is one.

Cells of an entry share compiled programs within a process. Two processes that take cells in turn
compile nearly everything twice, at the same time; so each entry has a process of its own, until
nothing else is left to do.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable

from alignax.compare.cells import Cell


class Turns:
    """Hands out cells, each once, to processes that ask from threads.

    Args:
        kind: of a cell; those of one kind share programs.
    """

    def __init__(self, kind: Callable[[Cell], str]):
        self._kind = kind
        self._home: dict[str, int] = {}
        self._left: list[Cell] = []
        self._lock = threading.Lock()

    def add(self, cells: Iterable[Cell]) -> None:
        """More to do, after what there is."""
        with self._lock:
            self._left += cells

    def next(self, process: int) -> Cell | None:
        """The first cell left of a kind that this process has run; else the first of a kind that
        none has; else one of the kind with most left. None where nothing is left."""
        with self._lock:
            kinds = [self._kind(cell) for cell in self._left]
            own = [k for k in kinds if self._home.get(k) == process]
            new = [k for k in kinds if k not in self._home]
            if not kinds:
                return None
            kind = (own or new or [Counter(kinds).most_common(1)[0][0]])[0]
            self._home.setdefault(kind, process)
            return self._left.pop(kinds.index(kind))

    def clear(self) -> None:
        """Nothing more."""
        with self._lock:
            self._left = []
