"""docs/own_method.md word for word, and what a run does with code that is not the package's."""

import dataclasses
import json
import os
import pathlib
import re
import shlex

import pytest

from alignax import cli, earlier, jobs
from alignax.compare import settings
from alignax.compare.settings import Part
from alignax.core import modules
from alignax.core.errors import BadInput
from alignax.core.records import Preference, Prompt
from alignax.methods import DPO
from alignax.run import Run
from alignax.saved import CODE, first_difference
from alignax.train.loop import Loop
from tests.command_line import flat, refused
from tests.compare.small import TINY
from tests.run_files import held_out, updates
from tests.test_documents import code
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory, write_rows

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "own_method.md").read_text()
# In place of the page's numbers, for a test's time.
SMALL = ("--loop.max-steps", "2", "--loop.batch-size", "4", "--evaluation.num-prompts", "0",
         "--mesh.data", "1", "--no-tensorboard")  # fmt: skip
COMMANDS = re.findall(r"^alignax .*$", PAGE.replace("\\\n", ""), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture
def folder(weights, tmp_path, monkeypatch):
    """The folder of a user who has copied the page's files, with data and weights."""
    monkeypatch.chdir(tmp_path)
    blocks = dict(zip(re.findall(r"`(my_\w+\.py)`.*\n\n```python", PAGE), code(PAGE), strict=True))
    for name, text in blocks.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "path" / "or").mkdir(parents=True)
    (tmp_path / "path" / "or" / "hub-id").symlink_to(weights)
    for name, count, record in (("pairs", 12, Preference), ("held_out", 4, Preference),
                                ("prompts", 8, Prompt)):  # fmt: skip
        write_rows(tmp_path / f"{name}.jsonl", count, record)
    (tmp_path / "my_rule.py").write_text(
        "def reward(completions, **_):\n    return [float(len(x)) for x in completions]\n"
    )
    return tmp_path


def run(command, *more):
    cli.main([*shlex.split(command, comments=True)[1:], *SMALL, *more])


def stopped(capsys, command, *more):
    """What a command is refused with."""
    return flat(refused(capsys, *shlex.split(command, comments=True)[1:], *SMALL, *more))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # within a tick of the file system's clock


def method(folder, **settings):
    """The page's method as a new process finds it, in a tiny experiment."""
    cls = modules.load(f"{folder / 'my_method.py'}:FocalDPO", "a test")
    return tiny(folder, method=cls(**settings), loop=Loop(batch_size=4, max_steps=2))


def test_every_command_of_the_page_is_one_that_a_test_here_runs():
    assert [x.split("#")[0].split("--data ")[0].strip() for x in COMMANDS] == [
        "alignax train --method my_method.py:FocalDPO",
        "alignax train my_config.py",
        "alignax train my_config.py --output-dir runs/gammas --grid method.gamma=0.5,1,2",
        "alignax train --method my_selection.py:GapDPO",
        "alignax compare configs/compare_tiny.py --add my_method.py:ENTRY",
    ]


def test_the_pages_loss_trains_by_its_name_and_by_its_config(folder, capsys):
    run(COMMANDS[0])
    assert "gamma=2.0" in flat(capsys.readouterr().out)
    by_name = updates(folder / "runs" / "focaldpo_pairs")
    # At the start the margin is 0: half the weight in the power of gamma, times ln 2.
    assert by_name[0]["loss"] == pytest.approx(0.5**2 * 0.693147, rel=1e-5)
    run(COMMANDS[1])
    assert updates(folder / "runs/focal")[0]["loss"] == pytest.approx(0.5 * 0.693147, rel=1e-5)
    assert held_out(folder / "runs/focal")[2]["eval_rewards/accuracies"] >= 0.0


def test_its_scalar_can_be_swept(folder):
    run(COMMANDS[2])
    rows = [json.loads(x) for x in (folder / "runs/gammas/members.jsonl").read_text().splitlines()]
    assert [row["method.gamma"] for row in rows] == [0.5, 1.0, 2.0]


def test_the_pages_choice_among_samples_trains_and_another_reward_is_another_run(folder, capsys):
    short = ("--rollout.max-new-tokens", "8")
    run(COMMANDS[3], *short)
    assert len(updates(folder / "runs/gapdpo_prompts")) == 2
    edit(folder / "my_rule.py", "len(x)", "-len(x)")
    said = stopped(capsys, COMMANDS[3], *short)
    assert said.startswith(
        "error: my_rule.py: expected the code of reward that the run in runs/gapdpo_prompts was "
        "begun with; got another: this file, or one that it imports, has been edited since. "
        "Give the new run another output_dir, or set it back to go on with the old one."
    )


def test_the_pages_entry_has_as_many_trials_as_those_of_the_tiny_comparison(folder):
    found = settings.load(TINY, Part(added=("my_method.py:ENTRY",), only=("focal dpo",)))
    assert str(found.entry("focal dpo").method) == "FocalDPO(beta=0.1, gamma=1.0)"


# --- Code that is edited


def test_prepared_data_are_those_of_the_code_as_it_is(folder):
    """The order in `group` is swapped, and with it what is learnt from."""
    before = Run(method(folder), quiet=True).train_data
    edit(
        folder / "my_method.py",
        "(record.chosen, record.rejected)",
        "(record.rejected, record.chosen)",
    )
    after = Run(method(folder), quiet=True).train_data
    one, other = before[0], after[0]
    split = int(one.response_lengths[0])
    assert other.responses.tolist() == [*one.responses[split:], *one.responses[:split]]
    assert before.content != after.content


def test_an_edit_of_the_loss_leaves_the_references_numbers_where_they_are(folder):
    before = Run(method(folder), quiet=True).train_data
    edit(folder / "my_method.py", "self.gamma)", "self.gamma * 0.5)")
    after = Run(method(folder), quiet=True).train_data
    assert before.directory != after.directory
    assert before.content == after.content


def test_two_files_that_hold_a_class_of_one_name_share_nothing(folder):
    before = Run(method(folder), quiet=True).train_data
    (folder / "other").mkdir()
    text = (folder / "my_method.py").read_text()
    (folder / "other" / "my_method.py").write_text(
        text.replace("[chosen", "[rejected") + "# another\n"
    )
    cls = modules.load(f"{folder / 'other' / 'my_method.py'}:FocalDPO", "a test")
    made = dataclasses.replace(method(folder), method=cls())
    assert Run(made, quiet=True).train_data.directory != before.directory


def test_the_packages_own_methods_are_known_by_what_their_data_are_made_from_alone(folder):
    one, other = (Run(tiny(folder, method=DPO()), quiet=True).train_data for _ in range(2))
    assert one == other
    assert one.content == one.fingerprint
    assert not one.by_own_code


def test_of_a_class_without_a_source_nothing_is_found_again_and_that_is_said(folder, capsys):
    text = (folder / "my_method.py").read_text().partition("TRIALS")[0]
    exec(compile(text, "<typed in>", "exec"), space := {"__name__": "__main__"})
    made = tiny(folder, method=space["FocalDPO"]())
    one, other = (Run(made).train_data for _ in range(2))
    assert one.directory != other.directory
    assert one.content == other.content  # so the reference's numbers are found
    printed = flat(capsys.readouterr().out)
    assert (
        "not kept for later: the prepared data of FocalDPO, whose source Python does not" in printed
    )


def test_a_run_does_not_go_on_with_other_code_finished_or_not(folder, capsys):
    run(COMMANDS[0])
    kept = (folder / "my_method.py").read_text()
    edit(folder / "my_method.py", "-(jax.nn", "-2 * (jax.nn")
    capsys.readouterr()
    for steps in ("2", "3"):  # finished, and to go on
        said = stopped(capsys, COMMANDS[0], "--loop.max-steps", steps)
        if steps == "2":
            assert said.startswith(
                "error: my_method.py: expected the code of FocalDPO that the run in "
                "runs/focaldpo_pairs was begun with; got another"
            )
    (folder / "my_method.py").write_text(kept)
    run(COMMANDS[0])
    assert "finished already" in capsys.readouterr().out


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew_with_other_code(folder):
    made = method(folder)
    jobs.train(made, quiet=True)
    for path in (folder / "run").glob("checkpoint-*"):
        path.rename(folder / path.name)
    edit(folder / "my_method.py", "-(jax.nn", "-2 * (jax.nn")
    with pytest.raises(BadInput, match=r"my_method.py: expected the code of FocalDPO"):
        jobs.train(method(folder), quiet=True)


def test_a_run_that_an_earlier_version_began_goes_on_without_a_word_of_its_code(folder):
    now = earlier.settings(Run(method(folder), quiet=True))
    assert set(now[CODE]) == {"my_method.py"}
    before = {name: x for name, x in now.items() if name != CODE}
    assert first_difference(before, now) is None
    edit(folder / "my_method.py", "-(jax.nn", "-2 * (jax.nn")
    other = earlier.settings(Run(method(folder), quiet=True))
    assert first_difference(before, other) is None  # nothing but the digest differs
    different = first_difference(now, other)
    assert different is not None
    assert different[0] == f"{CODE}.my_method.py"


# --- What is refused


def test_a_loss_that_is_reduced_is_refused_before_data_are_prepared(folder, capsys):
    edit(folder / "my_method.py", "return loss,", "return loss.mean(),")
    said = stopped(capsys, COMMANDS[0])
    assert said.startswith("error: FocalDPO.loss: expected one loss a prompt, [8]; got [].")
    assert not any((folder / ".cache").glob("alignax/*"))


def test_a_class_that_is_not_frozen_is_refused_before_data_are_prepared(folder, capsys):
    edit(folder / "my_method.py", "frozen=True, ", "")
    said = stopped(capsys, COMMANDS[0])
    assert said.startswith("error: FocalDPO: expected FocalDPO to be a frozen dataclass; got a")
    assert "Write @dataclasses.dataclass(frozen=True, kw_only=True) above it." in said


def test_a_metric_by_the_name_of_margins_that_are_none_is_told_from_another_reference(folder):
    edit(folder / "my_method.py", "return loss, pair_metrics(logps, rewards)",
         'return loss, pair_metrics(logps, rewards) | {"rewards/margins": 1 + margin}')  # fmt: skip
    with pytest.raises(BadInput) as raised:
        jobs.train(method(folder), quiet=True)
    assert raised.value.where == "step 1: FocalDPO.loss"
    assert raised.value.got.startswith("1, while policy and reference agree")
    assert "another name" in raised.value.remedy
    assert updates(folder / "run") == []


def test_a_grid_over_a_number_that_is_no_scalar_says_how_it_becomes_one(folder, capsys):
    edit(folder / "my_method.py", "gamma: Scalar", "gamma: float")
    said = stopped(
        capsys, COMMANDS[0].partition(" --method.gamma")[0], "--grid", "method.gamma=1,2"
    )
    assert said.endswith(
        "Where the loss alone reads it, annotate FocalDPO.gamma as alignax.Scalar."
    )
    said = stopped(capsys, "alignax train --method slic", "--grid", "method.nll_weigth=1,2")
    assert "annotate" not in said


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("my_method.py:Focal", "a class of a method Focal in my_method.py; got none"),
        (
            "my_method.py:ENTRY",
            "expected a class that is an alignax.Method; got my_method.py:ENTRY",
        ),
        ("my_method.py:Needy", "expected a method whose settings all have defaults"),
    ],
)
def test_what_is_no_method_of_defaults_is_refused_with_where_one_is_shown(
    place, said, folder, capsys
):
    with (folder / "my_method.py").open("a") as file:
        file.write("\n@dataclasses.dataclass(frozen=True, kw_only=True)\n")
        file.write("class Needy(FocalDPO):\n    x: int\n")
    found = stopped(capsys, f"alignax train --method {place} --data pairs.jsonl")
    assert said in found


def test_a_group_that_does_not_say_where_it_is_from_is_where_its_record_is(folder):
    assert Run(method(folder), quiet=True).train_data[2].origin == "train.jsonl:3"
