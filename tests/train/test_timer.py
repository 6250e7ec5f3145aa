"""A timer is due soon after its time, and asks the clock that all share seldom."""

import time

import pytest

from alignax.core import processes
from alignax.train.timer import Timer


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set, and how often it was shared."""

    class Clock:
        now, shared = 0.0, 0

    def told(tree):
        Clock.shared += 1
        return tree

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(processes, "told", told)
    return Clock


def dues(timer, clock, updates, seconds):
    """The updates after which it was due; update i takes `seconds(i)`."""
    found = []
    for i in updates:
        clock.now += seconds(i)
        if timer.due(i):
            found.append(i)
    return found


def test_it_is_due_each_time_so_many_seconds_have_passed(clock):
    timer = Timer(100.0, 0)
    assert dues(timer, clock, range(1, 351), lambda i: 1.0) == [100, 200, 300]
    # Between two: after 1, 2, 4, ... 64 updates, where as many as before would be too many, and
    # after 100.
    assert clock.shared <= 4 * 8


def test_a_slow_first_update_or_a_run_that_grows_slow_delays_it_by_as_much_as_has_passed(clock):
    assert dues(Timer(100.0, 0), clock, range(1, 60), lambda i: 61.0 if i == 1 else 1.0) == [40]
    clock.now = 0.0
    # 16 updates in 16 s, which says nothing of more than 16 others; those take 50 s each.
    assert dues(Timer(100.0, 0), clock, range(1, 33), lambda i: 1.0 if i <= 16 else 50.0) == [32]


def test_it_counts_from_where_a_run_goes_on(clock):
    found = dues(Timer(100.0, 1000), clock, range(1001, 1060), lambda i: 10.0)
    assert found == [1010, 1020, 1030, 1040, 1050]


def test_without_a_time_it_is_never_due_and_asks_nobody(clock):
    assert dues(Timer(None, 0), clock, range(1, 50), lambda i: 1e6) == []
    assert clock.shared == 0
