"""Programs are compiled where they are used: a process keeps to its entries while it can."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from alignax.compare.cells import Cell
from alignax.compare.turns import Turns


def cells(**counts):
    return [
        Cell(purpose="tune", entry=entry, trial=i)
        for entry, count in counts.items()
        for i in range(count)
    ]


def turns(given):
    made = Turns(lambda cell: cell.entry)
    made.add(given)
    return made


def taken(made, process):
    cell = made.next(process)
    assert cell is not None
    return cell


def test_a_process_keeps_to_an_entry_that_no_other_has_begun():
    made = turns(cells(dpo=3, grpo=2))
    assert [taken(made, i).entry for i in (0, 1, 0, 1, 0)] == ["dpo", "grpo", "dpo", "grpo", "dpo"]
    assert made.next(0) is None
    assert made.next(1) is None


def test_what_one_has_compiled_it_runs_in_a_later_phase_too():
    made = turns(cells(dpo=1, grpo=1))
    assert (taken(made, 1).entry, taken(made, 0).entry) == ("dpo", "grpo")
    made.add(cells(grpo=2, dpo=2))
    assert [taken(made, i).entry for i in (1, 0, 1, 0)] == ["dpo", "grpo", "dpo", "grpo"]


def test_whoever_has_nothing_left_helps_where_most_is_left():
    made = turns(cells(dpo=2, grpo=4, rloo=1))
    first = [taken(made, i) for i in (0, 1, 2)]
    assert [x.entry for x in first] == ["dpo", "grpo", "rloo"]
    helped = taken(made, 2)
    assert (helped.entry, helped.trial) == ("grpo", 1)
    assert taken(made, 1).trial == 2


def test_every_cell_is_handed_out_once():
    given = cells(dpo=5, grpo=7, rloo=1)
    made = turns(given)
    found = [taken(made, i % 3) for i in range(len(given))]
    assert sorted(found, key=str) == sorted(given, key=str)
    assert made.next(0) is None


def test_who_has_nothing_to_do_waits_for_what_a_running_cell_may_ask_for():
    """One cell asks for two more when it ends; both processes are there to run them."""
    made = turns(cells(dpo=1))
    started, ran = threading.Barrier(2), []

    def ended(cell):
        if cell.entry == "dpo":
            made.add(cells(grpo=2))

    def work(process):
        for cell in made.of(process, ended):
            if cell.entry == "grpo":
                started.wait(timeout=60)  # neither goes on without the other
            ran.append(cell.entry)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
    assert ran == ["dpo", "grpo", "grpo"]


def test_an_error_in_one_thread_does_not_leave_the_other_waiting():
    made = turns(cells(dpo=1))

    def ended(cell):
        raise ZeroDivisionError

    def work(process):
        return [cell.entry for cell in made.of(process, ended)]

    with ThreadPoolExecutor(2) as threads, pytest.raises(ZeroDivisionError):
        list(threads.map(work, range(2)))


def test_nothing_is_handed_out_once_it_is_closed():
    made = turns(cells(dpo=2))
    made.close()
    made.add(cells(grpo=1))
    assert list(made.of(0, lambda cell: None)) == []
