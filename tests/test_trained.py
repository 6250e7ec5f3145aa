"""What a run has left is read as what it was trained as; a member of a sweep as a run is."""

import contextlib
import dataclasses
import functools
import io
import pathlib
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignax import jobs
from alignax.cli import main
from alignax.config import Evaluation
from alignax.core.errors import BadInput
from alignax.generate.reward_models import ModelReward as RewardOf
from alignax.generate.reward_rules import Length
from alignax.generate.rewards import Rewards
from alignax.generate.sampler import Sampler
from alignax.methods import DPO, SFT
from alignax.models.lora import LoRA
from alignax.run import Run
from alignax.train.loop import Loop
from alignax.trained import newest_export, refuse_what_is_read
from tests.command_line import flat, refused
from tests.run_files import held_out
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory

CONFIG = """
import pathlib
from alignax import Loop
from alignax.config import Evaluation
from tests.tiny_model import experiment as tiny

def experiment():
    loop = Loop(batch_size=8, max_steps=2, save_steps=1)
    evaluation = Evaluation(num_prompts=0)
    return tiny(pathlib.Path(__file__).parent, loop=loop, evaluation=evaluation, tensorboard=False)
"""


def printed_by(*words):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([str(word) for word in words])
    return printed.getvalue()


def test_the_folder_of_a_finished_run_is_no_unfinished_ones(trained, tmp_path, capsys):
    path, made = trained
    run = tmp_path / "run"
    shutil.copytree(made.output_dir, run)
    shutil.rmtree(run / "export")
    for name in ("checkpoint-2", "metrics.jsonl"):
        there = run / name
        shutil.rmtree(there) if there.is_dir() else there.unlink()
    given = "--output-dir", str(run)
    printed = printed_by("export", path, *given)
    assert "export-1" in printed
    assert (run / "export-1" / "model.safetensors").is_file()
    assert not (run / "export").exists()
    assert newest_export(run) == run / "export-1"
    (run / "export-10").mkdir()
    assert newest_export(run) == run / "export-10"
    assert newest_export(tmp_path) is None
    printed_by("export", path, *given, "--to", run / "export")  # as somebody may say
    assert newest_export(run) == run / "export"
    said = refused(capsys, "rerun", run)
    assert f"{run}: expected a finished run; got one that is at step 1." in said


def test_the_newest_weights_of_a_finished_run_go_where_training_put_them(trained, tmp_path):
    path, made = trained
    run = tmp_path / "run"
    shutil.copytree(made.output_dir, run)
    shutil.rmtree(run / "export")
    printed_by("export", path, "--output-dir", run)
    assert (run / "export" / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config file whose run has ended, and its experiment."""
    path = tmp_path_factory.mktemp("trained") / "tiny.py"
    path.write_text(CONFIG)
    printed_by("train", path)
    loop = Loop(batch_size=8, max_steps=2, save_steps=1)
    nothing = Evaluation(num_prompts=0)
    return path, tiny(path.parent, loop=loop, evaluation=nothing, tensorboard=False)


@pytest.fixture(scope="module")
def swept(trained):
    """Two strengths by two seeds of the same, and what their training printed."""
    path, _ = trained
    words = ["--seeds", "2", "--grid", "method.beta=0.1,0.5"]
    printed = printed_by("train", path, *words, "--output-dir", path.parent / "swept")
    return path.parent / "swept", printed


def changed(made, name, value):
    """The experiment with another setting, by its dotted name."""
    *rooms, last = name.split(".")
    if not rooms:
        return dataclasses.replace(made, **{last: value})
    inside = functools.reduce(getattr, rooms, made)
    return changed(made, ".".join(rooms), dataclasses.replace(inside, **{last: value}))


# --- Settings


@pytest.mark.parametrize(
    ("name", "value", "where", "expected", "got"),
    [
        ("method.beta", 5.0, "method.beta", "0.5", "5.0"),
        ("method", SFT(), "method.type", "'DPO'", "'SFT'"),
        ("adapter", LoRA(rank=2), "adapter", "None", "{'type': 'LoRA', "),
        ("model.dtype", "bfloat16", "model.dtype", "'float32'", "'bfloat16'"),
        ("data.chat_template", "chatml", "data.chat_template", "None", "'chatml'"),
        ("data.chat_template_kwargs", {"x": True}, "data.chat_template_kwargs.x", "None", "True"),
        ("data.template", "none", "data.template", "'chat'", "'none'"),
    ],
)
@pytest.mark.parametrize("job", ["evaluate", "export"])
def test_settings_that_make_another_model_or_measure_are_refused(
    job, name, value, where, expected, got, trained, tmp_path
):
    other = changed(trained[1], name, value)
    does = {
        "evaluate": jobs.evaluate,
        "export": functools.partial(jobs.export_newest, directory=tmp_path / "out"),
    }[job]
    with pytest.raises(BadInput) as error:
        does(other, quiet=True)
    assert error.value.where == where
    assert error.value.expected == f"{expected}, by which {other.output_dir} was trained"
    assert error.value.got.startswith(got)
    assert "the same flags again" in error.value.remedy
    assert not (tmp_path / "out").exists()


def test_what_is_measured_and_on_what_machine_may_be_another(trained, tmp_path):
    made = trained[1]
    for name, value in (
        ("evaluation", Evaluation(num_prompts=1, sampler=Sampler(max_new_tokens=3))),
        ("data.eval", made.data.train), ("data.eval_limit", 8),
        ("model.attention", "xla"), ("model.scan_layers", False), ("model.remat", "none"),
        ("optim.learning_rate", 0.5), ("seed", 7), ("loop.max_steps", 9),
    ):  # fmt: skip
        made = changed(made, name, value)
    found = jobs.evaluate(made, quiet=True)
    assert found["eval_loss"].n == 8  # of 24
    assert found["eval_sampled/length"].n == 1


def test_a_reference_of_other_weights_at_the_same_path_is_refused(trained, tmp_path):
    """An export of a whole model reads none of them."""
    path, made = trained
    weights = path.parent / "model" / "model.safetensors"
    before = weights.read_bytes()
    save_file({name: 2 * x for name, x in load_file(weights).items()}, weights)
    try:
        with pytest.raises(BadInput) as error:
            jobs.evaluate(made, quiet=True)
        jobs.export_newest(made, tmp_path / "out", quiet=True)
    finally:
        weights.write_bytes(before)
    assert error.value.where == "contents of model.model_name_or_path"
    first = pathlib.Path(made.output_dir) / "export"
    for name in ("model.safetensors", "README.md"):
        assert (tmp_path / "out" / name).read_bytes() == (first / name).read_bytes()


def test_where_nothing_is_measured_the_setting_is_named_that_says_so(trained):
    none = changed(trained[1], "data.eval", None)
    with pytest.raises(BadInput, match=r"Set data\.eval\."):
        jobs.evaluate(none, quiet=True)
    asked = changed(none, "evaluation.prompts", trained[1].data.train)
    with pytest.raises(BadInput) as error:
        jobs.evaluate(asked, quiet=True)
    assert (error.value.where, error.value.got) == ("evaluation.num_prompts", "0")


# --- Where an export goes


def test_an_export_never_replaces_what_the_run_is_made_of(trained, tmp_path, capsys):
    path, _ = trained
    model = path.parent / "model"
    before = (model / "model.safetensors").read_bytes()
    (tmp_path / "link").symlink_to(model)
    for target in (model, tmp_path / "link", path.parent / "run" / ".." / "model"):
        message = flat(refused(capsys, "export", path, "--to", target))
        assert "a directory that the run does not read from" in message
        assert "got that of model.model_name_or_path" in message
    assert (model / "model.safetensors").read_bytes() == before


def test_an_export_replaces_no_model_that_is_not_an_export(trained, tmp_path):
    """A model that somebody has downloaded has the same files, but for the marked README.md."""
    theirs = model_directory(tmp_path / "theirs")
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    with pytest.raises(BadInput, match=r"a model without the README\.md that an export has"):
        jobs.export_newest(trained[1], theirs, quiet=True)
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before
    (tmp_path / "empty").mkdir()
    for target in ("empty", "empty", "new"):
        jobs.export_newest(trained[1], tmp_path / target, quiet=True)
        assert (tmp_path / target / "model.safetensors").is_file()


def test_the_model_of_an_earlier_step_goes_beside_that_of_the_end(trained):
    path, _ = trained
    run = path.parent / "run"
    before = (run / "export" / "model.safetensors").read_bytes()
    assert "export-1" in flat(printed_by("export", path, "--step", "1")).replace(" ", "")
    assert (run / "export" / "model.safetensors").read_bytes() == before
    assert (run / "export-1" / "model.safetensors").read_bytes() != before
    shutil.rmtree(run / "export-1")


@pytest.mark.parametrize(
    "setting",
    [
        "model.critic_name_or_path",
        "adapter.adapter_name_or_path",
        "rollout.rewards.parts.1.directory",
    ],
)
def test_neither_does_it_replace_another_part_of_the_run(setting, trained, tmp_path):
    made, place = trained[1], str(tmp_path / "place")
    if setting.startswith("model"):
        made = changed(made, setting, place)
    elif setting.startswith("adapter"):
        made = changed(made, "adapter", LoRA(adapter_name_or_path=place))
    else:
        parts = (Length(target=3.0, width=1.0), RewardOf(directory=place))
        made = changed(made, "rollout.rewards", Rewards(parts=parts))
    run = Run(made, quiet=True)
    refuse_what_is_read(run, tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=f"got that of {re.escape(setting)}"):
        refuse_what_is_read(run, tmp_path / "elsewhere" / ".." / "place")


# --- Members of a sweep


def test_a_sweep_says_where_each_members_export_is(swept):
    folder, printed = swept
    shown = "".join(printed.split())
    for place in ("beta=0.1/seed=0", "beta=0.1/seed=1", "beta=0.5/seed=0", "beta=0.5/seed=1"):
        assert f"exported:{folder}/{place}/export" in shown


def test_a_member_is_exported_and_evaluated_as_a_run_is(swept, trained, tmp_path):
    folder, _ = swept
    member = folder / "beta=0.1" / "seed=1"
    made = changed(changed(trained[1], "output_dir", str(member)), "method", DPO(beta=0.1))
    jobs.export_newest(made, tmp_path / "out", quiet=True)
    for name in ("model.safetensors", "README.md"):
        assert (tmp_path / "out" / name).read_bytes() == (member / "export" / name).read_bytes()
    found, logged = jobs.evaluate(made, quiet=True), held_out(member)[2]
    assert found["eval_rewards/margins"].mean == pytest.approx(
        logged["eval_rewards/margins"], abs=1e-5
    )
    # Members differ: what was read is this one's and no other's.
    for other in ("beta=0.1/seed=0", "beta=0.5/seed=1"):
        weights = load_file(folder / other / "export" / "model.safetensors")
        mine = load_file(tmp_path / "out" / "model.safetensors")
        assert not all(np.array_equal(weights[name], mine[name]) for name in mine)


def test_a_member_has_the_settings_of_its_point(swept, trained):
    member = changed(trained[1], "output_dir", str(swept[0] / "beta=0.1" / "seed=1"))
    with pytest.raises(BadInput) as error:
        jobs.evaluate(member, quiet=True)  # with beta=0.5
    assert (error.value.where, error.value.got) == ("method.beta", "0.5")
    assert error.value.expected.startswith("0.1, by which ")


def test_a_whole_sweep_is_no_run_and_neither_is_a_member_that_there_is_not(swept, trained, capsys):
    folder, path = swept[0], trained[0]
    message = flat(refused(capsys, "evaluate", path, "--output-dir", folder))
    assert "got a sweep of 4: beta=0.1/seed=0, beta=0.1/seed=1, beta=0.5/seed=0, ...." in message
    assert "Give the output_dir of a member, such as" in message
    message = flat(refused(capsys, "export", path, "--output-dir", folder, "--seeds", "2"))
    assert "command line: expected export of one run; got --seeds." in message
    assert "--output-dir OUTPUT_DIR/seed=1" in message
    nobody = folder / "beta=0.1" / "seed=7"
    message = flat(refused(capsys, "evaluate", path, "--output-dir", nobody))
    assert "expected a run with a checkpoint; got none." in message
