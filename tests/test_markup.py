"""What comes from outside stands on the terminal as it is, whatever its square brackets hold."""

import json
import pathlib

import pytest
from rich.markup import render

from alignax import feeds, jobs, rerun, run
from alignax.data.pipeline import Drawn
from alignax.data.preflight import Check, table
from alignax.methods import GRPO
from alignax.rerun import Comparison
from alignax.run import Run
from tests.test_online_runs import setup
from tests.test_run import lines


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """No line that is looked for is broken."""
    monkeypatch.setattr(run.console, "_width", 400)


def test_a_sampling_run_prints_prompts_and_folders_as_they_stand(tmp_path, capsys):
    folder = tmp_path / "runs[i]"
    folder.mkdir()
    made = setup(
        folder, GRPO(num_samples=2, beta=0.0), loop={"max_steps": 1}, rollout={"show_every": 1},
        output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    rows = [{"prompt": f"make [b]bear {i}[/i] bold"} for i in range(24)]
    pathlib.Path(made.data.train).write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs.train(made)
    printed = capsys.readouterr().out
    drawn = [line["prompt"] for line in lines(tmp_path / "run" / "rollouts.jsonl")]
    assert drawn
    assert all(prompt in printed for prompt in drawn)
    assert str(folder / "model") in printed
    assert str(folder / "train.jsonl") in printed


def test_a_code_between_colons_is_no_picture_and_a_line_in_a_file_is_whole(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(run.console, "_width", 80)
    line = "runs/:x:/export, " + "of a long name " * 9
    Run(setup(tmp_path, GRPO())).say(f"[bold]{line}[/]")
    assert capsys.readouterr().out == f"{line}\n"


def test_an_answer_with_indices_is_shown_whole(tmp_path, capsys):
    look = feeds.show(Run(setup(tmp_path, GRPO(), rollout={"show_every": 1})))
    assert look is not None
    sample = {"prompt": "[/INST]", "completions": ["a[i] = b[j]"], "rewards": [1.0]}
    look(1, Drawn({}, [sample, sample | {"rewards": [None]}]))
    printed = capsys.readouterr().out
    assert "masked" in printed
    assert "[/INST]" in printed
    assert "a[i] = b[j]" in printed


def test_a_special_token_in_brackets_is_seen_in_the_preflight(capsys):
    run.console.print(table([Check("bos", "none twice in a row; [bos] also opens turns")]))
    assert "; [bos] also opens" in capsys.readouterr().out


def test_what_a_rerun_found_is_told_with_its_brackets():
    found = Comparison(3, (4, "rewards/[/x]/mean", 1.0, 2.0), True, [("git", None, "[a]")])
    assert render(rerun.describe(found)).plain.splitlines() == [
        "✗ 3 lines of metrics are the same; then, at step 4, rewards/[/x]/mean is 2.0, and was 1.0",
        "  git: [a], and was None",
    ]
