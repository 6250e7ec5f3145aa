"""Two runs do not train in one output_dir, and what a killed one left stands in nobody's way."""

import os
import platform
import re
import subprocess
import sys
import time

import pytest

from alignax.core.errors import BadInput
from alignax.train import claim

KILLED = """
import os, pathlib, signal, sys
from alignax.train import claim
with claim.held(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_second_run_is_refused_as_long_as_the_first_one_is_at_work(tmp_path):
    with claim.held(tmp_path):
        with pytest.raises(BadInput) as error, claim.held(tmp_path):
            pass
        assert str(error.value) == (
            f"{tmp_path}: expected an output_dir in which no run is at work; got process "
            f"{os.getpid()} on {platform.node()} trains there.\n"
            "    Stop it, or wait for its end; or give another output_dir."
        )
    with claim.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_taken(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert [path.name for path in tmp_path.iterdir()] == [claim.FILE]
    with claim.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_nobody_touches_any_more_is_nobodys(tmp_path):
    """As a file server keeps it of a host that is gone."""
    with claim.held(tmp_path):
        then = time.time() - claim.ABANDONED - 1
        os.utime(tmp_path / claim.FILE, (then, then))
        with claim.held(tmp_path):
            assert str(os.getpid()) in (tmp_path / claim.FILE).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_run_at_work_touches_its_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "TOUCHED", 0.01)
    with claim.held(tmp_path):
        os.utime(tmp_path / claim.FILE, (1.0, 1.0))
        until = time.monotonic() + 10
        while (tmp_path / claim.FILE).stat().st_mtime == 1.0:
            assert time.monotonic() < until
            time.sleep(0.01)


PAUSED = """
import os, pathlib, sys, time
from alignax.train import claim
claim.TOUCHED = 0.05
folder = pathlib.Path(sys.argv[1])
with claim.held(folder):
    other = folder / "other"  # as of a run that found this one silent for two minutes
    other.write_text("process 7 on elsewhere")
    other.replace(folder / claim.FILE)
    time.sleep(60)
    (folder / "saved").touch()
"""


def test_a_run_whose_folder_was_taken_while_it_was_paused_ends_without_a_word_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PAUSED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{tmp_path}: process 7 on elsewhere has taken this folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [claim.FILE]
    assert (tmp_path / claim.FILE).read_text() == "process 7 on elsewhere"


# A host's name and a number that containers share: the token behind them tells the two apart.
NAMESAKE = PAUSED.replace(
    '"process 7 on elsewhere"', '(folder / claim.FILE).read_text().partition("\\n")[0] + "\\nother"'
)


def test_a_namesake_in_another_container_is_another(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NAMESAKE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(rf"process \d+ on {re.escape(platform.node())} has taken this", done.stderr)
    assert not (tmp_path / "saved").exists()


def test_a_clock_that_goes_before_the_file_servers_ends_no_run_at_work(tmp_path, monkeypatch):
    ahead = time.time() + 2 * claim.ABANDONED
    monkeypatch.setattr(time, "time", lambda: ahead)
    with claim.held(tmp_path):
        with pytest.raises(BadInput, match="in which no run is at work"), claim.held(tmp_path):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [claim.FILE]


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(claim.fcntl, "flock", no_locks)
    with claim.held(tmp_path), claim.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
