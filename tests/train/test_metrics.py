import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alignax.core.errors import BadInput
from alignax.train.metrics import MetricLog


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_the_step_then_the_names_in_order(tmp_path):
    with MetricLog(tmp_path, tensorboard=False) as log:
        log.write(3, {"loss": 0.5, "kl": 0.25, "tokens": 123456789})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 3, "kl": 0.25, "loss": 0.5, "tokens": 123456789}\n'


def test_floats_read_back_as_the_same_float32(tmp_path):
    values = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    values *= np.float32(10.0) ** np.arange(-38, 38, 0.38).astype(np.float32)[:200]
    with MetricLog(tmp_path, tensorboard=False) as log:
        log.write(1, {f"v{i:03}": value for i, value in enumerate(values)})
    (row,) = lines(tmp_path / "metrics.jsonl")
    read = np.array([np.float32(row[f"v{i:03}"]) for i in range(200)])
    np.testing.assert_array_equal(read, values)


def test_arrays_and_python_numbers_print_alike(tmp_path):
    with MetricLog(tmp_path, tensorboard=False) as log:
        for value in (0.1, np.float32(0.1), np.float64(0.1), jnp.float32(0.1), np.array(0.1)):
            log.write(1, {"loss": value})
    assert set((tmp_path / "metrics.jsonl").read_text().splitlines()) == {
        '{"step": 1, "loss": 0.1}'
    }


def test_what_is_not_finite_is_valid_json(tmp_path):
    with MetricLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    (row,) = lines(tmp_path / "metrics.jsonl")
    assert row == {"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
    assert math.isnan(float(row["a"]))
    assert float(row["c"]) == -math.inf


def test_flushing_brings_what_was_written_to_the_disk(tmp_path, monkeypatch):
    files, fsync = set(), os.fsync

    def synced(number):
        files.add(os.fstat(number).st_ino)
        fsync(number)

    monkeypatch.setattr(os, "fsync", synced)
    with MetricLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"loss": 0.5}, timings={"seconds": 1.0})
        assert files == set()  # each line would wait for the disk
        log.flush()
    names = ("metrics.jsonl", "timings.jsonl", "trainer_state.json")
    assert {(tmp_path / name).stat().st_ino for name in names} <= files


def test_clocks_stay_out_of_the_metrics(tmp_path):
    with MetricLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"loss": 1.0}, timings={"seconds": 0.25})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    assert lines(tmp_path / "timings.jsonl") == [{"step": 1, "seconds": 0.25}]


def run(directory, steps):
    log = MetricLog(directory, tensorboard=False)
    for step in steps:
        log.write(step, {"loss": 1.0 / step, "accuracy": step}, timings={"now": time.time()})
    return log


def test_a_resumed_file_equals_an_unbroken_one(tmp_path, caplog):
    run(tmp_path / "unbroken", range(1, 10)).close()
    run(tmp_path / "resumed", range(1, 8)).close()
    path = tmp_path / "resumed" / "metrics.jsonl"
    with path.open("a") as file:  # as a kill may leave it
        file.write('{"step": 8, "accur')
    log = MetricLog(tmp_path / "resumed", tensorboard=False)
    with caplog.at_level(logging.INFO, "alignax"):
        assert log.rewind(5) == 3  # steps 6, 7 and the broken one
    assert caplog.messages == [f"{path}: dropped 3 lines after step 5"]
    log.close()
    run(tmp_path / "resumed", range(6, 10)).close()
    for name in ("metrics.jsonl", "trainer_state.json"):
        unbroken = (tmp_path / "unbroken" / name).read_bytes()
        assert (tmp_path / "resumed" / name).read_bytes() == unbroken
    steps = [row["step"] for row in lines(tmp_path / "resumed" / "timings.jsonl")]
    assert steps == list(range(1, 10))


def test_rewind_goes_on_where_the_same_log_was_writing(tmp_path):
    log = run(tmp_path, range(1, 4))
    assert log.rewind(1) == 2
    log.write(2, {"loss": 0.0})
    log.close()
    assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_rewind_of_nothing_is_nothing(tmp_path):
    log = MetricLog(tmp_path, tensorboard=False)
    assert log.rewind(7) == 0
    assert not (tmp_path / "metrics.jsonl").exists()


def test_rewind_to_before_the_start_empties_the_file(tmp_path):
    log = run(tmp_path, range(1, 4))
    assert log.rewind(-1) == 3
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_strange_line_in_the_middle_is_refused_with_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nhello\n{"step": 2}\n')
    with pytest.raises(BadInput) as error:
        MetricLog(tmp_path, tensorboard=False).rewind(1)
    assert str(error.value) == (
        f"{path}:2: expected a JSON object with an integer step; got 'hello'.\n"
        "    Repair the line or move the file away."
    )
    assert path.read_text().count("\n") == 3


def test_a_killed_process_leaves_lines_that_rewind_can_read(tmp_path):
    code = (
        "import sys; from alignax.train.metrics import MetricLog\n"
        "log = MetricLog(sys.argv[1], tensorboard=False)\n"
        "for step in range(10**9): log.write(step, {f'm{i}': 0.5 for i in range(50)})\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path.cwd())
    path = tmp_path / "metrics.jsonl"
    while not path.exists() or path.stat().st_size < 100_000:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    MetricLog(tmp_path, tensorboard=False).rewind(20)
    assert [row["step"] for row in lines(path)] == list(range(21))


def test_trainer_state_holds_the_log_history(tmp_path):
    log = run(tmp_path, [1, 2])
    log.flush()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state == {
        "global_step": 2,
        "log_history": [
            {"step": 1, "loss": 1.0, "accuracy": 1},
            {"step": 2, "loss": 0.5, "accuracy": 2},
        ],
    }
    log.close()
    log.close()  # twice does no harm


def test_a_flush_looks_at_the_lines_since_the_last_one_alone(tmp_path, monkeypatch):
    log, looked, loads = run(tmp_path, range(1, 101)), [], json.loads
    log.flush()
    monkeypatch.setattr(json, "loads", lambda text: looked.append(1) or loads(text))
    for step in (101, 102):
        log.write(step, {"loss": 0.5})
    log.flush()
    monkeypatch.undo()
    assert len(looked) <= 4  # each once as it is met, and the last for its step
    rows = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert rows == lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 103))
    log.close()


def test_trainer_state_after_a_rewind_has_nothing_twice_and_nothing_that_was_dropped(tmp_path):
    log = run(tmp_path, range(1, 8))
    log.flush()
    log.rewind(5)
    for step in (6, 7, 8):
        log.write(step, {"loss": 0.0})  # a shorter line than the one that stood there
        log.flush()
    rows = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert rows == lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    log.close()


def test_a_strange_line_is_told_by_its_number_in_a_later_flush_too(tmp_path):
    log = run(tmp_path, (1, 2))
    log.flush()
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + 'hello\n{"step": 3}\n')
    with pytest.raises(BadInput, match=r"metrics\.jsonl:3: "):
        log.flush()
    path.write_text(whole)
    log.close()


def test_a_long_log_is_copied_whole_into_the_trainer_state(tmp_path):
    with MetricLog(tmp_path, tensorboard=False) as log:
        for step in range(1, 4001):  # more than is copied at a time
            log.write(step, {f"m{i:02}": step + i / 8 for i in range(20)})
    rows = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert (tmp_path / "metrics.jsonl").stat().st_size > 2**20
    assert rows == lines(tmp_path / "metrics.jsonl")


def test_trainer_state_of_a_run_without_a_line_is_valid(tmp_path):
    MetricLog(tmp_path, tensorboard=False).close()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state == {"global_step": 0, "log_history": []}


def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": float(step)}, timings={"tokens_per_second": 9.0})
    with MetricLog(tmp_path) as log:  # within the same second, which tensorboardX would overwrite
        log.rewind(1)
        for step in (2, 3, 4):
            log.write(step, {"loss": 10.0 * step})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    seen = [(event.step, event.value) for event in events.Scalars("loss")]
    assert seen == [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]
    assert [event.step for event in events.Scalars("tokens_per_second")] == [1]


def test_an_unwritable_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput) as error:
        MetricLog(tmp_path / "file" / "run")
    assert str(error.value) == (
        f"{tmp_path / 'file' / 'run'}: expected a place that can be written; "
        "got Not a directory.\n"
        "    Free some space or its permissions, or give another output_dir."
    )


def test_wandb_that_is_asked_for_and_missing_is_refused_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInput) as error:
        MetricLog(tmp_path, wandb="project")
    assert "expected the package wandb, which reporting to W&B needs" in str(error.value)
    assert "pip install -e '.[wandb]' in the clone" in str(error.value)


def test_wandb_is_given_every_number_and_resumed_by_its_id(tmp_path, monkeypatch):
    calls = []

    class Run:
        id = "abc"

        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finish")

    def init(**settings):
        calls.append(settings)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for _ in range(2):
        with MetricLog(tmp_path, tensorboard=False, wandb="prefs") as log:
            log.write(1, {"loss": 0.5}, timings={"seconds": 2})
    shared = {"project": "prefs", "name": tmp_path.name, "dir": str(tmp_path), "resume": "allow"}
    numbers = (1, {"loss": 0.5, "seconds": 2.0})
    assert calls == [
        {**shared, "id": None},
        numbers,
        "finish",
        {**shared, "id": "abc"},
        numbers,
        "finish",
    ]
