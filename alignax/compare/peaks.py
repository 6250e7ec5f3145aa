"""The most memory that a run holds: on CPUs beyond what its process held before, and of an
accelerator all that it held of it.

Linux forgets a process's peak when asked to; an accelerator's counter only rises. So a run there
has its own peak where it raises the counter, that of an earlier run of the same entry, which has
arrays of the same sizes, where it does not, and none where another entry's stands in its way.
"""

import gc
from collections.abc import Callable
from pathlib import Path

import jax

from alignax.core.memory import give_back

MIB = 2**20


class Peaks:
    """Of a process's runs, one after another.

    Args:
        counter: bytes that were held at most at any time since the process began; None where the
            device does not tell.
    """

    def __init__(self, counter: Callable[[], int | None] | None = None):
        self._counter = counter or held
        self._of: dict[str, int] = {}  # by entry
        self._before: float | None = None

    def begin(self) -> None:
        """A run begins.

        What earlier ones have freed goes back to the system first: else it would be taken again
        unseen, and the peak would depend on what ran before.
        """
        gc.collect()
        self._before = _forget() if jax.default_backend() == "cpu" else self._counter()

    def end(self, entry: str) -> float | None:
        """MiB that the run of `entry` held at most, and None where nobody can say."""
        if self._before is None:
            return None
        if jax.default_backend() == "cpu":
            return (_status("VmHWM") - self._before) / 1024
        return self._of_device(entry)

    def _of_device(self, entry: str) -> float | None:
        now = self._counter()
        assert now is not None
        assert self._before is not None
        if now > self._before:
            self._of[entry] = now
        return self._of[entry] / MIB if entry in self._of else None


def held() -> int | None:
    """Bytes at most, of the device of this process that held most; None where one does not tell."""
    peaks = [(x.memory_stats() or {}).get("peak_bytes_in_use") for x in jax.local_devices()]
    known = [x for x in peaks if x is not None]
    return max(known) if len(known) == len(peaks) else None


def _forget() -> float | None:
    """Makes the peak of memory what is in use now, and returns that, in KiB; Linux alone can."""
    if not give_back():
        return None
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system
        return None
    return _status("VmRSS")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(x.split()[1] for x in lines if x.startswith(f"{name}:")))
