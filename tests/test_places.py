"""Where a run keeps what it writes: one folder for all of it, and an object store for none."""

import dataclasses

import pytest

from alignax import jobs
from alignax.config import Evaluation, check
from alignax.core.errors import BadInput
from alignax.train.loop import Loop
from tests.tiny_model import experiment as tiny


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home, and another folder to work in."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def below_home(folder):
    made = tiny(
        folder, output_dir="~/runs/a", loop=Loop(batch_size=8, max_steps=1),
        evaluation=Evaluation(num_prompts=4),
    )  # fmt: skip
    return dataclasses.replace(made, data=dataclasses.replace(made.data, cache_dir="~/kept"))


def test_a_run_below_the_home_leaves_everything_there(tmp_path, home):
    made = below_home(tmp_path)
    assert made.output_dir == f"{home}/runs/a"
    assert made.data.cache_dir == f"{home}/kept"
    jobs.train(made, quiet=True)
    assert list((tmp_path / "work").iterdir()) == []
    written = {path.name for path in (home / "runs" / "a").iterdir()}
    assert written >= {"checkpoint-1", "metrics.jsonl", "card.json", "samples-1.jsonl", "export"}
    kinds = sorted(path.suffix for path in (home / "kept").iterdir())
    assert kinds == [
        "",
        "",
        ".npy",
        ".npy",
    ]  # of train and test: tokens, and what the reference says


def test_a_path_that_has_no_home_in_it_is_as_it_was_given(tmp_path):
    made = tiny(tmp_path, output_dir="runs/a~b")
    assert made.output_dir == "runs/a~b"


@pytest.mark.parametrize("name", ["output_dir", "data.cache_dir"])
def test_an_object_store_is_refused_with_the_way_to_use_one(name, tmp_path):
    made = tiny(tmp_path)
    if name == "output_dir":
        made = dataclasses.replace(made, output_dir="gs://bucket/run")
    else:
        data = dataclasses.replace(made.data, cache_dir="gs://bucket/run")
        made = dataclasses.replace(made, data=data)
    with pytest.raises(BadInput) as error:
        check(made)
    assert str(error.value) == (
        f"{name}: expected a folder; got 'gs://bucket/run'.\n    Logs, samples and data are files "
        "of the operating system: mount the bucket, as docs/pods.md says, and give a path in it."
    )
