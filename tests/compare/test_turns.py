"""Programs are compiled where they are used: a process keeps to its entries while it can."""

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
