"""A disk without room: refused before the run, or stopped with every earlier checkpoint whole."""

import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from alignax.cli import main
from tests.refusals.runs import nothing_was_made, refused


@pytest.fixture
def small_disk(tmp_path) -> Iterator[pathlib.Path]:
    """A file system of 6 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk without mounting one: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place, leave):
    """Leaves so many bytes free."""
    free = shutil.disk_usage(place).free
    (place / "ballast").write_bytes(b"\0" * (free - leave))


@pytest.mark.usefixtures("no_weights")
def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_run(
    folder, small_disk, capsys
):
    fill(small_disk, 1 << 18)
    printed = refused(folder, capsys, "--output-dir", str(small_disk / "run"))
    assert f"{small_disk}/run: expected " in printed
    assert "bytes of free disk space; got " in printed
    assert "Free some, keep fewer checkpoints, or give another output_dir." in printed
    assert not (small_disk / "run").exists()


def test_a_disk_that_fills_up_on_the_way_loses_no_earlier_checkpoint(
    folder, small_disk, capsys, monkeypatch
):
    options = ["--output-dir", str(small_disk / "run"), "--mesh.data", "1"]
    options += ["--loop.save-steps", "1", "--loop.max-steps", "3"]
    from alignax.train.checkpoint import Checkpoints

    save = Checkpoints.save

    def save_and_fill(self, step, *arguments, **named):
        if step == 2:
            self.wait()
            fill(small_disk, 1 << 16)
        return save(self, step, *arguments, **named)

    monkeypatch.setattr(Checkpoints, "save", save_and_fill)
    printed = refused(folder, capsys, *options)
    assert "checkpoint-2: expected to write the checkpoint; got " in printed
    assert "Free some disk space, or give another output_dir, and start again. " in printed
    assert f"{small_disk}/run/checkpoint-1 is still there." in printed
    monkeypatch.undo()
    (small_disk / "ballast").unlink()
    main(["train", str(folder / "config.py"), *options])
    assert "resumed from step 1 of 3" in capsys.readouterr().out


def test_a_disk_too_small_for_the_prepared_data_says_so(folder, small_disk, capsys):
    fill(small_disk, 1 << 12)
    printed = refused(folder, capsys, "--data.cache-dir", str(small_disk / "cache"))
    assert f"{small_disk}/cache: expected room for the prepared data; got No space left" in printed
    assert "Free some, or set data.cache_dir to a folder on another disk." in printed
    assert nothing_was_made(folder)
