"""What was freed goes back to the system, where the C library can."""

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest

from alignax.core import memory

MIB = 2**20


def resident() -> float:
    """MiB that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


@pytest.mark.skipif(not memory.give_back(), reason="another C library than glibc")
def test_pages_that_hold_nothing_are_given_back():
    # Of 64 KiB, which come from the heap; one is kept behind all others, so that it stays as long.
    blocks = [np.ones(64 * 1024, np.uint8) for _ in range(1600)]
    kept = [block for i, block in enumerate(blocks) if i % 400 == 399]
    full = resident()
    del blocks
    assert memory.give_back()
    assert resident() < full - 80.0
    assert all((block == 1).all() for block in kept)


def test_where_the_library_cannot_nothing_is_done(monkeypatch):
    memory._trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # as musl's and macOS's: no such name
    try:
        assert memory.give_back() is False
    finally:
        memory._trim.cache_clear()
