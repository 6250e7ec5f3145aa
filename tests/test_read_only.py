"""A file system that cannot be written is refused as a run's place, and serves as its source."""

import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from alignax import jobs
from alignax.config import Evaluation
from alignax.core.errors import BadInput
from alignax.train.checkpoint import Checkpoints
from alignax.train.loop import Loop
from alignax.train.sharding import Mesh
from tests.tiny_model import experiment as tiny
from tests.train.saved import (
    EXPERIMENT,
    POSITION,
    assert_same_bits,
    make_state,
    restore,
)


def mount(place: pathlib.Path, *options: str) -> None:
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk of its own without mounting: {mounted.stderr.decode().strip()}")


@pytest.fixture
def disk(tmp_path) -> Iterator[pathlib.Path]:
    """A file system of its own, which can be written at first."""
    place = tmp_path / "disk"
    place.mkdir()
    mount(place)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def made(folder: pathlib.Path, **changes):
    return tiny(
        folder,
        loop=Loop(batch_size=8, max_steps=3, save_steps=1),
        evaluation=Evaluation(num_prompts=0),
        mesh=Mesh(data=1),
        tensorboard=False,
        **changes,
    )


def test_an_output_directory_that_cannot_be_written_is_refused_first(tmp_path, disk):
    mount(disk, "-o", "remount,ro")
    with pytest.raises(BadInput, match=r"a directory that can be written; got .*Read-only"):
        jobs.train(made(tmp_path, output_dir=str(disk / "run")), quiet=True)


def test_prepared_data_serve_from_a_disk_that_cannot_be_written(tmp_path, disk):
    experiment = made(tmp_path)
    cache = {"cache_dir": str(disk / "cache")}
    data = type(experiment.data)(**vars(experiment.data) | cache)
    jobs.train(made(tmp_path, data=data), quiet=True)
    mount(disk, "-o", "remount,ro")
    jobs.train(made(tmp_path, data=data, output_dir=str(tmp_path / "again")), quiet=True)
    assert (tmp_path / "again" / "export" / "model.safetensors").is_file()


def test_a_disk_that_turns_read_only_on_the_way_loses_no_earlier_checkpoint(disk):
    run = disk / "run"

    def save_twice():
        with Checkpoints(run) as checkpoints:
            for step in (1, 2):
                checkpoints.save(step, make_state(step), position=POSITION, experiment=EXPERIMENT)
                checkpoints.wait()
                mount(disk, "-o", "remount,ro")

    with pytest.raises(BadInput) as error:
        save_twice()
    assert f"{run}/checkpoint-2: expected to write the checkpoint; got " in str(error.value)
    assert "Read-only file system" in str(error.value)
    assert str(error.value).endswith(
        "Make the directory writable, or give another output_dir, and start again. "
        f"{run}/checkpoint-1 is still there."
    )
    mount(disk, "-o", "remount,rw")
    assert_same_bits(restore(run).state, make_state(1))
