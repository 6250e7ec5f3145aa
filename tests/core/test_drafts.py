"""A draft is renamed whole or leaves nothing, also where its process was killed."""

import fcntl
import os
import subprocess
import sys
import time

import pytest

from alignax.core import drafts

KILLED = """
import os, pathlib, signal, sys
from alignax.core import drafts
with drafts.draft(pathlib.Path(sys.argv[1])) as made:
    (made / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_renamed_out_of_a_draft_stays_and_nothing_else(tmp_path):
    folder = tmp_path / "new"
    with drafts.draft(folder) as made:
        (made / "whole").write_text("whole")
        (made / "rest").write_text("rest")
        (made / "whole").rename(folder / "whole")
    assert names(folder) == ["whole"]


def test_an_error_leaves_nothing(tmp_path):
    def fail():
        with drafts.draft(tmp_path) as made:
            (made / "half").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_deleted_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert len(names(tmp_path)) == 1
    drafts.clear(tmp_path)
    assert names(tmp_path) == []


def test_what_was_left_before_it_had_a_lock_is_deleted(tmp_path):
    (tmp_path / f"{drafts.OWN}empty").mkdir()
    drafts.clear(tmp_path)
    assert names(tmp_path) == []


def test_the_draft_of_a_process_that_works_is_left_alone(tmp_path):
    with drafts.draft(tmp_path) as made:
        (made / "half").write_text("half")
        with drafts.draft(tmp_path) as other:
            assert other != made
        assert (made / "half").read_text() == "half"


def test_what_is_no_draft_is_left_alone(tmp_path):
    foreign = tmp_path / f"{drafts.OWN}foreign"
    foreign.mkdir()
    (foreign / "work").write_text("somebody's")
    drafts.clear(tmp_path)
    assert (foreign / "work").exists()


def test_the_draft_of_a_host_whose_name_begins_with_this_ones_is_anothers(tmp_path):
    made = tmp_path / f"{drafts.OWN}2-12345678"
    made.mkdir()
    (made / "lock").write_text("")
    drafts.clear(tmp_path)
    assert made.exists()


@pytest.mark.parametrize(("hours", "stays"), [(23, True), (25, False)])
def test_the_draft_of_another_host_is_left_alone_for_a_day_whatever_its_lock(
    tmp_path, hours, stays
):
    """Where locks are a host's own, those of another one look free."""
    made = tmp_path / f"{drafts.PREFIX}another-host-12345678"
    made.mkdir()
    (made / "lock").write_text("")
    (made / "half").write_text("half")
    then = time.time() - hours * 3600
    os.utime(made, (then, then))
    drafts.clear(tmp_path)
    assert made.exists() == stays


def test_without_locks_drafts_are_made_and_those_of_others_left(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with drafts.draft(tmp_path) as made, drafts.draft(tmp_path):
        assert made.is_dir()
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"), drafts.draft(tmp_path / "file" / "x"):
        pass
