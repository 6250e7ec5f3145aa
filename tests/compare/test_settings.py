"""What a comparison refuses before it runs, and how its runs are made of its entries."""

import dataclasses
import math
import pathlib

import pytest

from alignax import DPO, IPO, BadInput, Function
from alignax.compare import budgets, cells, fingerprints, settings
from alignax.compare.cells import Cell
from alignax.compare.claims import Claim
from alignax.compare.settings import Comparison, Entry, Part
from tests import tiny_model

OWN = Entry(name="own", method=DPO(beta=0.3), family="offline",
            trials=({"optim.learning_rate": 1e-3},))  # fmt: skip
NOT_ONE = 3


@pytest.fixture
def comparison(tmp_path) -> Comparison:
    return made_in(tmp_path)


def made_in(folder: pathlib.Path) -> Comparison:
    base = tiny_model.experiment(folder)
    base = dataclasses.replace(base, loop=dataclasses.replace(base.loop, max_steps=4, eval_steps=2))
    tried = ({"optim.learning_rate": 1e-3}, {"method.beta": 0.7})
    prompts = str(folder / "test.jsonl")
    return Comparison(
        title="tiny",
        base=base,
        gold=Function(function="tests.compare.test_settings:gold"),
        proxy=base,
        tune=prompts,
        test=prompts,
        entries=(
            Entry(name="dpo", method=DPO(), family="offline", trials=tried),
            Entry(name="dpo, strong", method=DPO(), family="offline", like="dpo", league=False,
                  settings={"method.beta": 0.9}),
        ),
        compute_like="dpo",
        seeds=2,
    )  # fmt: skip


def gold(completions: list[str], **columns: object) -> list[float]:
    return [float(len(text)) for text in completions]


def refused(comparison: Comparison, **changes) -> str:
    with pytest.raises(BadInput) as error:
        dataclasses.replace(comparison, **changes).check()
    return str(error.value)


def test_entries_that_may_try_more_settings_are_refused(comparison):
    one = Entry(name="ipo", method=IPO(), family="offline", trials=({"method.tau": 0.1},))
    said = refused(comparison, entries=(*comparison.entries, one))
    assert "as many trials for every entry" in said
    assert "dpo: 2, ipo: 1" in said


def test_names_that_are_not_there_are_answered_with_the_nearest(comparison):
    claim = Claim(name="c", says="s", source="p", entries=("dpo", "dpo, strnog"))
    assert "Did you mean dpo, strong?" in refused(comparison, claims=(claim,))
    assert "compute_like" in refused(comparison, compute_like="ppo")
    twice = (*comparison.entries, comparison.entries[0])
    assert "each once" in refused(comparison, entries=twice)


def test_a_variant_of_a_variant_and_a_chain_of_three_are_refused(comparison):
    strong = comparison.entries[1]
    other = dataclasses.replace(strong, name="other", like="dpo, strong")
    said = refused(comparison, entries=(*comparison.entries, other))
    assert "other.like: expected an entry that is tuned itself; got dpo, strong." in said
    second = dataclasses.replace(strong, name="second", after="dpo, strong")
    third = dataclasses.replace(strong, name="third", after="second")
    said = refused(comparison, entries=(*comparison.entries, second, third))
    assert "third.after: expected an entry that begins from the reference; got second." in said


def test_an_entry_begins_where_another_ends_with_the_data_budget(comparison, tmp_path):
    strong = comparison.entries[1]
    second = dataclasses.replace(strong, name="second", after="dpo")
    said = refused(comparison, entries=(*comparison.entries, second))
    assert "second.after: expected an entry outside the league, which ends with the data" in said
    second = dataclasses.replace(second, after="dpo, strong")
    made = dataclasses.replace(comparison, entries=(*comparison.entries, second))
    steps = {entry.name: 4 for entry in made.entries}
    found = [x for x in cells.final(made, {"dpo": 1}, steps) if x.entry == "second"]
    assert [x.begun for x in found] == [1, 1]
    model = cells.experiment(made, found[0], tmp_path).model.model_name_or_path
    begun = tmp_path / "cells/final/dpo, strong/trial-1" / f"seed-{found[0].seed}/export"
    assert pathlib.Path(model) == begun


def test_a_comparison_without_a_budget_is_refused(comparison):
    loop = dataclasses.replace(comparison.base.loop, max_steps=None)
    base = dataclasses.replace(comparison.base, loop=loop)
    assert "expected base.loop.max_steps and eval_steps; got None." in refused(
        comparison, base=base
    )


def test_a_budget_that_is_not_measured_is_refused(comparison):
    loop = dataclasses.replace(comparison.base.loop, eval_steps=3)
    base = dataclasses.replace(comparison.base, loop=loop)
    assert "a data budget at which answers are measured" in refused(comparison, base=base)
    assert "at least 2 seeds" in refused(comparison, seeds=1)


def test_a_cell_is_the_base_with_the_entry_and_the_trial(comparison, tmp_path):
    cell = Cell(purpose="final", entry="dpo", trial=1, seed=7, steps=6)
    made = cells.experiment(comparison, cell, tmp_path)
    assert made.method == DPO(beta=0.7)
    assert (made.seed, made.loop.max_steps, made.loop.eval_steps) == (7, 6, 2)
    assert made.evaluation.answers == "always"
    assert pathlib.Path(made.output_dir) == tmp_path / "cells/final/dpo/trial-1/seed-7"


def test_a_variant_takes_the_chosen_trial_but_for_what_it_sets_itself(comparison, tmp_path):
    for trial in (0, 1):
        cell = Cell(purpose="final", entry="dpo, strong", trial=trial, seed=7, steps=6)
        assert cells.experiment(comparison, cell, tmp_path).method == DPO(beta=0.9)
    assert cells.experiment(
        comparison, Cell(purpose="final", entry="dpo, strong", seed=7, steps=6), tmp_path
    ).optim.learning_rate == pytest.approx(1e-3)


def test_a_misspelt_setting_of_a_trial_names_the_entry(comparison, tmp_path):
    entry = dataclasses.replace(comparison.entries[0], settings={"method.bata": 0.1})
    changed = dataclasses.replace(comparison, entries=(entry,))
    with pytest.raises(BadInput, match=r"dpo: method\.bata") as error:
        cells.experiment(changed, Cell(purpose="final", entry="dpo", steps=4), tmp_path)
    assert "Did you mean beta?" in str(error.value)


def test_seeds_are_tuned_with_or_reported_never_both(comparison):
    tuned = {cell.seed for cell in cells.tuning(comparison)}
    steps = {entry.name: 4 for entry in comparison.entries}
    final = cells.final(comparison, {"dpo": 1}, steps)
    assert len(final) == 4
    assert {cell.trial for cell in final} == {1}
    assert not tuned & {cell.seed for cell in final}


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"entries": ("dpo",)}, "expected 2 entries or more for 'order'; got 1."),
        ({"entries": ("dpo",), "kind": "spread"}, "expected 2 entries for 'spread'; got 1."),
        ({"metric": "glod"}, "got glod.\n    Did you mean gold?"),
        ({"kind": "spread"}, "expected entries with trials of their own; got dpo, strong.\n"
                             "    Name dpo."),
    ],
    ids=str,
)  # fmt: skip
def test_a_claim_that_could_not_be_judged_is_refused_before_anything_runs(about, said, comparison):
    claim = Claim(**{"name": "c", "says": "s", "source": "p", "entries": ("dpo", "dpo, strong"),
                     **about})  # fmt: skip
    found = refused(comparison, claims=(claim,))
    assert found.startswith("claim c: ")
    assert said in found


def test_a_claim_at_the_data_budget_asks_for_a_measurement_there(comparison):
    longer = dataclasses.replace(
        comparison.entries[1], name="longer", settings={"loop.max_steps": 6, "loop.eval_steps": 6}
    )
    entries = (*comparison.entries, longer)
    claim = Claim(name="c", says="s", source="p", entries=("longer", "dpo"))
    said = refused(comparison, entries=entries, claims=(claim,))
    assert "expected entries that are measured at update 4, the data budget; got longer" in said
    dataclasses.replace(
        comparison, entries=entries, claims=(dataclasses.replace(claim, at="end"),)
    ).check()


def test_a_log_from_which_costs_could_not_be_counted_is_refused(comparison):
    loop = dataclasses.replace(comparison.base.loop, logging_steps=5)
    said = refused(comparison, base=dataclasses.replace(comparison.base, loop=loop))
    assert said == (
        "base.loop: expected a line in the log for every update, from which costs are counted; "
        "got logging_steps 5.\n    Leave it at 1."
    )


def test_a_result_that_was_cut_off_is_run_again(tmp_path):
    whole, cut = (Cell(purpose="final", entry=name) for name in ("whole", "cut"))
    cells.write(cells.result_path(tmp_path, whole), {"rows": []})
    path = cells.result_path(tmp_path, cut)
    path.parent.mkdir(parents=True)
    path.write_text('{"rows": [')
    assert cells.read(tmp_path, [whole, cut]) == {whole: {"rows": []}}


def test_only_the_baselines_depend_on_how_many_answers_they_draw(comparison):
    more = dataclasses.replace(comparison, answers=128)
    for purpose, same in (("baselines", False), ("proxy", True)):
        cell = Cell(purpose=purpose)
        assert (fingerprints.of(comparison, cell) == fingerprints.of(more, cell)) is same


def tuned_with(**golds):
    """Results of tuning: by entry the golds of each trial's runs, None of a run that failed."""
    return {
        Cell(purpose="tune", entry=name, trial=trial, seed=seed): (
            {"failed": "no memory"} if gold is None else {"rows": [{"prompts": {"gold": [gold]}}]}
        )
        for name, trials in golds.items()
        for trial, runs in enumerate(trials)
        for seed, gold in enumerate(runs)
    }


def test_the_mean_over_its_runs_chooses_a_trial(comparison):
    # One lucky run of 3.0 would have chosen the first: its mean is 1.5, the second's 2.0.
    assert budgets.choose(comparison, tuned_with(a=[(3.0, 0.0), (2.0, 2.0)])) == {"a": 1}
    assert budgets.choose(comparison, tuned_with(a=[(2.0,), (2.0,), (1.0,)])) == {"a": 0}


def test_a_trial_of_which_a_run_failed_comes_after_those_that_ended(comparison):
    assert budgets.choose(comparison, tuned_with(a=[(3.0, None), (1.0, 1.0)])) == {"a": 1}
    assert budgets.choose(comparison, tuned_with(a=[(1.0, None), (2.0, None)])) == {"a": 1}
    assert budgets.choose(comparison, tuned_with(a=[(None,)], b=[(1.0,)])) == {"b": 0}
    assert budgets.choose(comparison, tuned_with(a=[(math.nan,), (1.0,)])) == {"a": 1}


def test_every_trial_is_run_with_the_same_seeds(comparison):
    made = dataclasses.replace(comparison, tuning_seeds=3)
    cells_of = {}
    for cell in cells.tuning(made):
        cells_of.setdefault((cell.entry, cell.trial), []).append(cell.seed)
    assert len({tuple(seeds) for seeds in cells_of.values()}) == 1
    assert len(next(iter(cells_of.values()))) == 3
    assert len(cells_of) == len(cells.tuning(comparison))


def test_updates_follow_what_is_spent_before_the_first_and_with_each(comparison):
    # a spends 25 an update, 100 in all; b 20 at once and then 5 each: 20 + 16 x 5 = 100. c has
    # spent more than 100 within the data budget; d follows a, and is not tuned.
    entries = tuple(
        Entry(name=name, method=DPO(), family="offline", trials=({},)) for name in "abc"
    )
    like = dataclasses.replace(entries[0], name="d", like="a", trials=())
    made = dataclasses.replace(comparison, entries=(*entries, like), compute_like="a")
    spent = {"a": (0.0, 100.0), "b": (20.0, 40.0), "c": (0.0, 400.0)}
    tuned = {
        Cell(purpose="tune", entry=name, steps=4): {
            "rows": [{"step": 4 * i, "cost": {"flops": x}} for i, x in enumerate(pair)]
        }
        for name, pair in spent.items()
    }
    found = budgets.updates(made, {"a": 0, "b": 0, "c": 0}, tuned)
    assert found == {"a": 4, "b": 16, "c": 4, "d": 160}
    few = dataclasses.replace(made, most_updates=9)
    assert budgets.updates(few, {"a": 0, "b": 0, "c": 0}, tuned)["b"] == 9


def test_an_entry_of_another_package_comes_by_its_import_path(comparison, tmp_path, monkeypatch):
    path = config_file(tmp_path, comparison, monkeypatch)
    found = settings.load(path, Part(added=("tests.compare.test_settings:OWN",), only=("own",)))
    assert [entry.name for entry in found.entries] == ["dpo", "own"]


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (
            Part(added=("tests.compare.test_settings:OWNS",)),
            "an Entry OWNS in tests.compare.test_settings; got none",
        ),
        (Part(added=("no_such_package:OWN",)), "no_such_package"),
        (Part(added=("tests.compare.test_settings:NOT_ONE",)), "int"),
        (Part(only=("dop",)), "Did you mean dpo?"),
        (Part(claims=("c",)), "a claim"),
    ],
)
def test_parts_that_are_not_there_are_refused(comparison, tmp_path, monkeypatch, part, says):
    path = config_file(tmp_path, comparison, monkeypatch)
    with pytest.raises(BadInput) as error:
        settings.load(path, part)
    assert says in str(error.value)


def config_file(folder: pathlib.Path, comparison: Comparison, monkeypatch) -> pathlib.Path:
    """A config file that returns this comparison, with one trial an entry."""
    tried = comparison.entries[0].trials[:1]
    entry = dataclasses.replace(comparison.entries[0], trials=tried)
    made = dataclasses.replace(comparison, entries=(entry,))
    monkeypatch.setattr("tests.compare.test_settings.MADE", made, raising=False)
    path = folder / "config.py"
    path.write_text("from tests.compare import test_settings\n\n"
                    "def comparison():\n    return test_settings.MADE\n")  # fmt: skip
    return path
