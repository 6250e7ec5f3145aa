"""Says where a run stands that does not move."""

import faulthandler
import sys


class Watchdog:
    """Prints every thread's stack when no update has come for a while, and again each time.

    A collective that waits for a lost host, a file system that does not answer, a reward that
    hangs: the stack says which. Nothing is ended, because a slow run looks the same.

    Args:
        seconds: between two updates; None never prints.
    """

    def __init__(self, seconds: int | None):
        self._seconds = seconds

    def update(self) -> None:
        """An update has come: the time begins anew."""
        # The process's own: that of a notebook has no file which could be written to from outside.
        stderr = sys.__stderr__
        if self._seconds is not None and stderr is not None:
            faulthandler.dump_traceback_later(self._seconds, repeat=True, file=stderr)

    def __enter__(self) -> "Watchdog":
        self.update()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()
