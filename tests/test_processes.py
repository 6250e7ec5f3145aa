"""Several processes are one run: the same numbers, saved together, stopped together."""

import concurrent.futures
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from alignax import config, jobs
from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.records import Preference, Prompt
from alignax.train import sharding
from tests.run_files import lines, updates
from tests.tiny_model import model_directory, write_rows

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
import os, time
from alignax.config import Data, Evaluation, Experiment, Model
from alignax.data.tokenise import TokenLimits
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.methods import DPO, GRPO
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from alignax.train.sharding import Mesh

def even(completion_ids, **_):
    time.sleep(float(os.environ.get("SECONDS_A_REWARD", "0")))
    with open("{folder}/asked", "a") as log:
        log.write(os.environ.get("JAX_PROCESS_ID", "") + " ")
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]

def experiment():
    return Experiment(
        method={method},
        model=Model(model_name_or_path="{folder}/model"),
        data=Data(train="{folder}/train.jsonl", eval={held_out},
                  limits=TokenLimits(max_length=256), cache_dir="{folder}/cache"),
        optim=Optim(learning_rate=1e-2),
        loop=Loop(batch_size=8, max_steps={steps}, save_steps={steps}),
        rollout={rollout},
        evaluation=Evaluation(num_prompts=0),
        mesh=Mesh(data=2, fsdp=2),
        output_dir="{folder}/run",
        tensorboard=False,
    )
"""
NOTHING_TO_SAVE = """
import os, signal, time
from alignax.core import processes
with processes.joined(listens=False):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    print("went on to the end")
"""
SAMPLED = {
    "method": "GRPO(num_samples=4)",
    "held_out": None,
    "rollout": "Rollout(rewards=Rewards(parts=(Function(function=even),)), max_new_tokens=6)",
}


def write(folder, record, **settings):
    """A config for four devices in `folder`, with its data and model."""
    folder.mkdir()
    model_directory(folder / "model")
    write_rows(folder / "train.jsonl", 24, record)
    write_rows(folder / "test.jsonl", 8, record)
    path = folder / "config.py"
    path.write_text(CONFIG.format(folder=folder, **settings))
    return path


def start(path, count, **environment):
    """`alignax train` in `count` processes that share four devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={4 // count}")
    return [
        subprocess.Popen(
            [sys.executable, "-m", "alignax.cli", "train", str(path), "--distributed"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XLA_FLAGS": flags, "JAX_NUM_PROCESSES": str(count),
                 "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_ID": str(i),
                 **environment},
        )
        for i in range(count)
    ]  # fmt: skip


def finish(started):
    """Their exit codes and what they printed."""
    try:
        printed = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], printed


def in_one(path):
    """The same run in this process, on four of its devices."""
    jobs.train(config.load(path), quiet=True)


def wait_for(path):
    """Returns when there is a line in the file."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if path.exists() and path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {path.name}")


def assert_equal_runs(one, other):
    """To rounding: sums over devices come in another order."""
    first, second = updates(one), updates(other)
    assert len(first) == len(second)
    for x, y in zip(first, second, strict=True):
        assert x.keys() == y.keys()
        np.testing.assert_allclose(
            [float(x[n]) for n in x], [float(y[n]) for n in x], rtol=1e-4, atol=1e-5
        )
    a, b = (load_file(folder / "export" / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-4, err_msg=name)


def test_four_processes_train_as_one(tmp_path):
    settings = {"method": "DPO(beta=0.5)", "rollout": "Rollout()", "steps": 3}
    many, one = (
        write(tmp_path / name, Preference, held_out=f'"{tmp_path / name}/test.jsonl"', **settings)
        for name in ("many", "one")
    )
    codes, printed = finish(start(many, 4))
    assert codes == [0] * 4, printed
    assert "exported" in printed[0]
    assert not any("exported" in text or "plan" in text for text in printed[1:])
    in_one(one)
    assert_equal_runs(many.parent / "run", one.parent / "run")
    found, expected = (
        {name: float(x) for line in lines(path.parent / "run" / "metrics.jsonl")
         for name, x in line.items() if name.startswith("eval_")}
        for path in (many, one)
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_notice_to_one_process_stops_both_and_one_process_goes_on(tmp_path):
    many, one = (write(tmp_path / name, Prompt, steps=6, **SAMPLED) for name in ("many", "one"))
    started = start(many, 2, SECONDS_A_REWARD="1.5")
    wait_for(many.parent / "run" / "metrics.jsonl")
    started[1].send_signal(signal.SIGTERM)
    codes, printed = finish(started)
    assert codes == [0, 0], printed
    # A reward of one's own is asked once, and its numbers hold in both.
    assert set((many.parent / "asked").read_text().split()) == {"0"}
    (saved,) = (path.name for path in (many.parent / "run").glob("checkpoint-*"))
    stopped = int(saved.removeprefix("checkpoint-"))
    assert 1 <= stopped < 6
    assert all(f"saved step {stopped} of 6" in text for text in printed)
    in_one(many)
    in_one(one)
    assert_equal_runs(many.parent / "run", one.parent / "run")


# Before the first update, and while arrays are sent for every token that is drawn.
@pytest.mark.parametrize("when", ["card.json", "metrics.jsonl"])
def test_the_loss_of_a_process_ends_the_others_with_the_reason(when, tmp_path):
    path = write(tmp_path / "run", Prompt, steps=6, **SAMPLED)
    started = start(path, 2, SECONDS_A_REWARD="1.5", ALIGNAX_HEARTBEAT_SECONDS="10")
    wait_for(path.parent / "run" / when)
    started[1].kill()
    codes, printed = finish(started)
    assert codes[0] not in (0, None)
    # Whoever notices first says so: the coordinator, or what waits for the other's arrays.
    noticed = r"unhealthy \(stopped sending heartbeats\)|Connection (closed|reset) by peer"
    assert re.search(noticed, printed[0]), printed[0]


# The second process has them in another order, or in the same.
@pytest.mark.parametrize("step", [-1, 1])
def test_rows_in_memory_are_those_of_one_file_or_refused_in_every_process(step, tmp_path):
    settings = {"method": "DPO(beta=0.5)", "rollout": "Rollout()", "steps": 1, "held_out": None}
    path = write(tmp_path / "run", Preference, **settings)
    file = path.parent / "train.jsonl"
    rows = f"[json.loads(line) for line in open({str(file)!r})]"
    order = f'{step} if os.environ["JAX_PROCESS_ID"] == "1" else 1'
    text = path.read_text().replace(f'"{file}"', f"{rows}[::{order}]")
    path.write_text("import json\n" + text)
    codes, printed = finish(start(path, 2))
    if step == 1:
        assert codes == [0, 0], printed
        assert len(list((path.parent / "cache").glob("rows-*.jsonl"))) == 1
    else:
        assert 0 not in codes
        for one in printed:
            assert "expected the same rows in every process, in the same order; got others" in one


def test_processes_that_do_not_say_who_they_are_are_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    with pytest.raises(BadInput, match=r"other processes of the run") as error:
        processes.join()
    assert "JAX_NUM_PROCESSES" in str(error.value)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(BadInput("rows", "none", "Give some.", where="x"), 2, "error: x: expected rows; got none"),
     (ZeroDivisionError("so it is"), 1, "ZeroDivisionError: so it is"),
     (KeyboardInterrupt(), 1, "KeyboardInterrupt")],
)  # fmt: skip
def test_an_error_is_printed_and_ends_its_process_without_waiting_for_the_others(
    monkeypatch, capsys, error, code, said
):
    codes = []
    monkeypatch.setattr(processes, "join", lambda **_: None)
    monkeypatch.setattr(os, "_exit", codes.append)
    with processes.joined():
        raise error
    assert codes == [code]
    assert said in capsys.readouterr().err


def test_an_interrupt_from_the_terminal_is_a_notice_to_all_processes(monkeypatch):
    """JAX listens to SIGTERM and tells the others; here something else listens."""
    notices = []
    before = signal.signal(signal.SIGTERM, lambda *_: notices.append("SIGTERM"))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    try:
        with processes.listening() as asked:
            signal.raise_signal(signal.SIGINT)
        assert (notices, asked) == (["SIGTERM"], [])
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("count", [1, 2])
def test_a_second_interrupt_from_the_terminal_ends_the_process_at_once(count, monkeypatch):
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # who listens where there are two
    monkeypatch.setattr(jax, "process_count", lambda: count)
    try:
        with processes.listening() as asked:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert asked == ([signal.SIGTERM, signal.SIGINT] if count == 1 else [])
            signal.raise_signal(signal.SIGINT)  # the same one, passed on by who started this
            later = processes.time.monotonic() + 1.5
            monkeypatch.setattr(processes.time, "monotonic", lambda: later)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_a_thread_a_run_listens_to_no_signal():
    def listen():
        with processes.listening() as asked:
            return asked, signal.getsignal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        assert threads.submit(listen).result() == ([], before)


def test_a_shard_is_ours_where_a_device_of_it_is():
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
    assert sharding.own_shards(mesh) == {0, 1, 2, 3}


def test_a_command_that_has_nothing_to_save_ends_at_sigterm():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    told = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "1",
            "JAX_PROCESS_ID": "0"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_TO_SAVE],
        cwd=ROOT, env=os.environ | told, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "went on" not in done.stdout
