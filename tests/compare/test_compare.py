"""A comparison from end to end, on the project's own tiny model: run, killed, gone on, reported."""

import dataclasses
import json
import pathlib
import threading

import jax
import pytest

from alignax import cli
from alignax.compare import manage, report, results
from alignax.compare.settings import Entry
from alignax.core.errors import BadInput
from alignax.core.method import Method, Needs
from alignax.core.pairs import chosen_first, log_ratios
from alignax.core.records import Preference
from tests.compare.small import SMALL


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquaredHinge(Method):
    """A user's own method, of which the library knows nothing: (1 - margin)^2 where that is short.

    Fields:
        scale: of the margin, above 0.
    """

    scale: float = 0.3

    def needs(self):
        return Needs(record=Preference, reference=True)

    def group(self, record):
        return chosen_first(record)

    def loss(self, outputs, batch):
        margins = self.scale * log_ratios(outputs, batch)
        short = jax.nn.relu(1.0 - margins[..., 0] + margins[..., 1])
        return short**2, {"short": short}


# A user's own entry, found by its import path; one of its two trials cannot be.
OWN = Entry(
    name="own", method=SquaredHinge(), family="offline",
    trials=({"optim.learning_rate": 1e-3}, {"optim.learning_rate": -1.0}),
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> pathlib.Path:
    """The tiny comparison, cut down: one method for data and one for samples, two updates."""
    path = tmp_path_factory.mktemp("compare") / "small.py"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("out")
    cli.main(["compare", str(config), "--output", str(output), "--seeds", "2",
              "--add", "tests.compare.test_compare:OWN"])  # fmt: skip
    return output


def lines(output: pathlib.Path) -> list[dict]:
    return [json.loads(x) for x in (output / results.RESULTS).read_text().splitlines()]


def test_every_run_leaves_its_raw_measurements_a_line(compared):
    found = [x for x in lines(compared) if x["purpose"] == "final" and x["entry"] == "grpo"]
    assert {(x["seed"], x["step"]) for x in found} >= {(1, 0), (1, 1), (1, 2), (2, 2)}
    last = found[-1]
    assert set(last["prompts"]) == {"gold", "proxy", "kl", "length", "ended", "kindness"}
    assert {len(x) for x in last["prompts"].values()} == {64}
    assert last["cost"]["generated"] > 0
    assert last["cost"]["flops"] > 0


def test_before_the_first_update_all_answer_as_the_reference(compared):
    found = [x for x in lines(compared) if x["purpose"] == "final" and x["step"] == 0]
    for seed in (1, 2):
        starts = [x["prompts"]["gold"] for x in found if x["seed"] == seed]
        assert len(starts) == 4
        assert all(x == starts[0] for x in starts)
        assert all(set(x["prompts"]["kl"]) == {0.0} for x in found)


def test_a_trial_that_fails_is_kept_with_its_reason_and_not_chosen(compared):
    failed = [x for x in lines(compared) if "failed" in x]
    assert [(x["entry"], x["trial"]) for x in failed] == [("own", 1)]
    assert "optim.learning_rate" in failed[0]["failed"]
    chosen = {
        x["trial"] for x in lines(compared) if x["entry"] == "own" and x["purpose"] == "final"
    }
    assert chosen == {0}


def test_the_page_and_its_findings_name_every_entry_of_the_league(compared):
    found = json.loads((compared / report.FINDINGS).read_text())
    names = {entry["name"] for entry in found["entries"]}
    assert names == {"dpo", "grpo", "own", "reference", "best of 4"}
    page = (compared / report.PAGE).read_text()
    assert all(name in page for name in names)
    assert len(found["pairs"]["data"]) == 10
    tried = next(entry["tried"] for entry in found["entries"] if entry["name"] == "own")
    assert [trial["failed"] for trial in tried] == [0, 1]
    assert page.count(" 1 failed</td>") == 1
    assert found["made"]["command"].startswith("alignax compare")


def test_a_report_is_made_again_from_the_raw_results_alone(compared, tmp_path):
    for name in (results.RESULTS, results.DESCRIPTION, report.MADE):
        (tmp_path / name).write_bytes((compared / name).read_bytes())
    cli.main(["report", str(tmp_path)])
    assert (tmp_path / report.FINDINGS).read_bytes() == (compared / report.FINDINGS).read_bytes()


def test_only_what_is_missing_or_failed_is_run_again(compared, config, monkeypatch):
    """The cell that is gone and the trial that failed; their results come back as they were."""
    victim = next(compared.glob("cells/final/dpo/trial-*/seed-2/result.json"))
    failed = compared / "cells/tune/own/trial-1/seed-1000/result.json"
    kept = {path: path.read_bytes() for path in (victim, failed)}
    victim.unlink()
    ran = []

    def run(self, number, cell):
        ran.append((cell.purpose, cell.entry, cell.seed))
        path = manage.cells_lib.result_path(compared, cell)
        path.write_bytes(kept[path])

    monkeypatch.setattr(manage.Pool, "_run", run)
    part = dataclasses.replace(manage.WHOLE, added=("tests.compare.test_compare:OWN",), seeds=2)
    manage.compare(config, compared, part=part)
    assert ran == [("tune", "own", 1000), ("final", "dpo", 2)]


def test_a_process_that_dies_is_a_failed_cell_and_the_others_go_on(config, tmp_path, monkeypatch):
    comparison = manage.load(config)
    monkeypatch.setattr(manage.sys, "executable", "/bin/false")
    with manage.Pool(config, comparison, tmp_path, manage.WHOLE, 1) as pool:
        found = pool.run(manage.cells_lib.tuning(comparison)[:2], "trials")
    assert [x["failed"] for x in found.values()] == [
        "the process ended with 1, for example for want of memory"
    ] * 2


def test_an_error_in_one_thread_stops_the_others_after_their_cell(config, tmp_path, monkeypatch):
    comparison, begun, closed = manage.load(config), [], threading.Event()

    def run(pool, number, cell):
        begun.append(cell)
        if len(begun) == 2:
            raise OSError("disk full")
        assert closed.wait(20)

    monkeypatch.setattr(manage.Pool, "_run", run)
    close = manage.Turns.close
    monkeypatch.setattr(manage.Turns, "close", lambda turns: (close(turns), closed.set()))
    with (
        manage.Pool(config, comparison, tmp_path, manage.WHOLE, 2) as pool,
        pytest.raises(OSError, match="disk full"),
    ):
        pool.run(manage.cells_lib.tuning(comparison), "trials")
    assert len(begun) == 2


@pytest.mark.parametrize(("anew", "processes"), [(False, 1), (True, 2)])
def test_on_an_accelerator_an_entrys_cells_have_a_process_of_their_own(
    config, tmp_path, monkeypatch, anew, processes
):
    """Its counter of memory never falls, so another entry's peak would hide theirs."""
    told, program = tmp_path / "told", tmp_path / "python"
    program.write_text(f"#!/bin/sh\nwhile read line; do echo $$ >> {told}; echo; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(manage.sys, "executable", str(program))
    comparison = manage.load(config)
    one, two = [entry.name for entry in comparison.entries if len(entry.trials) > 1][:2]
    wanted = [
        manage.Cell(purpose="tune", entry=entry, trial=trial, seed=1)
        for entry in (one, two)
        for trial in (0, 1)
    ]
    for cell in wanted:  # which the stand-in for a worker does not write
        manage.cells_lib.write(manage.cells_lib.result_path(tmp_path, cell), {"failed": "old"})
    with manage.Pool(config, comparison, tmp_path, manage.WHOLE, 1, anew=anew) as pool:
        pool.run(wanted, "trials")
    ran_by = told.read_text().split()
    assert len(ran_by) == 4
    assert ran_by[0] == ran_by[1]
    assert ran_by[2] == ran_by[3]
    assert len(set(ran_by)) == processes


@pytest.mark.parametrize(
    ("cpus", "given", "expected"),
    [
        (True, None, manage.FAST_TO_COMPILE),
        (True, "--xla_dump_to=x", f"{manage.FAST_TO_COMPILE} --xla_dump_to=x"),
        (False, None, ""),
        (False, "--xla_dump_to=x", "--xla_dump_to=x"),
    ],
)
def test_processes_on_cpus_compile_fast_and_the_users_flags_come_last(
    config, tmp_path, monkeypatch, cpus, given, expected
):
    """XLA takes the last of two flags of one name."""
    told = tmp_path / "told"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nprintf %s "$XLA_FLAGS" > {told}\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(manage.sys, "executable", str(program))
    monkeypatch.setattr(manage, "_on_cpus", lambda: cpus)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given:
        monkeypatch.setenv("XLA_FLAGS", given)
    with pytest.raises(BadInput, match="the process ended with 1"):
        manage.compare(config, tmp_path / "run")
    assert told.read_text() == expected


def test_a_gold_reward_that_lacks_a_column_is_told_at_once_and_its_message_ends_once(
    tmp_path, capsys
):
    path = tmp_path / "small.py"
    path.write_text(
        SMALL
        + "\n\nfrom alignax import NumberAnswer\n\nplain = comparison\n\n\ndef comparison():\n"
        "    return dataclasses.replace(plain(), gold=NumberAnswer(column='sum'), measures={})\n"
    )
    with pytest.raises(SystemExit):
        cli.main(["compare", str(path), "--output", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert (
        "train.jsonl.gz: rewards: number_answer.column: expected a column 'sum' beside the" in said
    )
    assert "or add it to the data.\n    worker-*.log has more." in said
    assert not [*(tmp_path / "out" / "cells").rglob("checkpoint-*")]


def test_without_a_reward_model_nothing_goes_on_and_the_reason_is_said(
    config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(manage.sys, "executable", "/bin/false")
    with pytest.raises(SystemExit):
        cli.main(["compare", str(config), "--output", str(tmp_path)])
    said = capsys.readouterr().err
    assert (
        "expected a reward model, from which all else begins; got the process ended with 1" in said
    )
    assert "Mend it and start again: what is finished stays." in said


def test_a_variant_that_can_only_fail_is_refused_before_the_trials(config, tmp_path, monkeypatch):
    """With every trial of the entry that it varies; one with which it can be is enough."""
    path = tmp_path / "variant.py"
    path.write_text(
        config.read_text() + "\n\nimport dataclasses\n"
        "small, WARMUP = comparison, {'optim.warmup_steps': 1_000}\n\n"
        "def comparison():\n    found = small()\n"
        "    late = [dataclasses.replace(x, settings={**x.settings, **WARMUP}) if x.like else x\n"
        "            for x in found.entries]\n"
        "    return dataclasses.replace(found, entries=tuple(late))\n"
    )
    ran = []
    monkeypatch.setattr(manage, "check", lambda experiment: None)  # there is no reward model
    monkeypatch.setattr(
        manage.Pool, "run", lambda self, cells, *a, **k: ran.extend(x.purpose for x in cells) or {}
    )
    with pytest.raises(BadInput, match=r"optim\.warmup_steps: expected 0 to 2"):
        manage.compare(path, tmp_path / "run")
    assert ran == ["proxy"]


def test_without_answers_of_the_reference_nothing_more_is_begun(config, tmp_path, monkeypatch):
    ran = []

    def run(self, number, cell):
        ran.append(cell.purpose)
        path = manage.cells_lib.result_path(tmp_path, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {"failed": "out of memory"} if cell.purpose == "baselines" else {"wall": 0.0}
        path.write_text(json.dumps(result))

    monkeypatch.setattr(manage.Pool, "_run", run)
    monkeypatch.setattr(manage, "check", lambda experiment: None)
    with pytest.raises(BadInput, match=r"the reference's answers.*out of memory"):
        manage.compare(config, tmp_path)
    assert ran == ["proxy", "baselines"]


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path)])
    assert "Run alignax compare first" in capsys.readouterr().err


def test_seeds_of_an_entry_follow_its_own_trials_and_not_those_of_all(
    config, tmp_path, monkeypatch
):
    """So a process still has its programs; only the length of the budget is waited for."""
    ran = []

    def run(self, number, cell):
        ran.append((cell.purpose, cell.entry))
        gold = {"gold": [1.0], "proxy": [1.0]}
        rows = [{"step": n, "prompts": gold, "cost": {"flops": 1.0 * n}} for n in (0, cell.steps)]
        path = manage.cells_lib.result_path(tmp_path, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": rows, "wall": 0.0, "fingerprint": ""}))

    monkeypatch.setattr(manage.Pool, "_run", run)
    monkeypatch.setattr(manage.fingerprints, "of", lambda *arguments: "")
    monkeypatch.setattr(manage, "check", lambda experiment: None)
    monkeypatch.setattr(manage.results, "write", lambda *arguments: None)
    monkeypatch.setattr(manage, "report", lambda output: output)
    manage.compare(config, tmp_path, part=dataclasses.replace(manage.WHOLE, seeds=2))
    dpo = [("tune", "dpo")] * 2 + [("final", "dpo")] * 2 + [("again", "dpo")] * 2
    controls = [("final", "dpo, shuffled labels")] * 2
    expected = [("proxy", ""), ("baselines", ""), *[("tune", "grpo")] * 2]
    assert ran[:4] == expected
    assert sorted(ran[4:]) == sorted([*dpo, *controls, *[("final", "grpo")] * 2])
    assert ran[4:6] in ([("final", "grpo")] * 2, [("tune", "dpo")] * 2)
