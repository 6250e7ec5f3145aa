"""The host's memory: what a process has freed goes back to the system.

glibc keeps what is freed for later requests. That is right between updates, which ask for the same
again; after something that is done once it only adds to all that comes after.
"""

import ctypes
import functools
from collections.abc import Callable


def give_back() -> bool:
    """Gives back all pages that hold nothing; whether this C library can."""
    trim = _trim()
    if trim is not None:
        trim(0)
    return trim is not None


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's own; no other C library has it."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return None
