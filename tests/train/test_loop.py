"""The loop keeps the device at work: it waits for no update that it has just launched."""

import contextlib
import signal

import jax
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.types import TrainState
from alignax.data.pipeline import DrawFailed, Drawn
from alignax.train import loop
from alignax.train.checkpoint import Checkpoints
from alignax.train.metrics import MetricLog
from alignax.train.optim import Optim, schedule

STEPS = 4


class Feed:
    """Arrays of the host, one for each update."""

    def __init__(self):
        self.drawn = 0

    def draw(self, params):
        del params
        self.drawn += 1
        return (np.full(3, self.drawn, np.float32),), Drawn()

    def position(self):
        return {"drawn": self.drawn}

    def missing(self, position):
        raise AssertionError("nothing to go on from")

    def restore(self, position):
        raise AssertionError("nothing to go on from")

    def keep(self, positions):
        """There is nothing that it has stored."""


class Unsaved(Checkpoints):
    """Checkpoints that read no array."""

    def __init__(self, directory, last):
        super().__init__(directory)
        self.saved, self._last = [], last

    def save(self, step, state, *, position, experiment):
        del state, position, experiment
        self.saved.append(step)

    def wait(self):
        """Where the last save takes its time."""
        if self.saved:
            self._last()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A loop over updates whose results cannot be read but by `jax.device_get`, and what it did.

    Their buffers are deleted: `float`, `bool`, NumPy and `block_until_ready` raise on them.
    """
    did, numbers = [], {}

    def unreadable(name, value):
        array = jax.device_put(np.float32(value))
        numbers[id(array)] = (array, name, value)
        array.delete()
        return array

    def step(state, array):
        assert isinstance(array, jax.Array)
        i = len([what for what in did if what.startswith("launch")]) + 1
        did.append(f"launch {i}")
        values = {"loss": 1.0 / i, "grad_norm": 1.0, "num_tokens": 10.0}
        new = TrainState(unreadable("step", i), {"w": unreadable("w", i)}, ())
        return new, {name: unreadable(f"{name} {i}", value) for name, value in values.items()}

    def device_get(tree):
        did.append("read " + numbers[id(tree["loss"])][1].removeprefix("loss "))
        return {name: numbers[id(x)][2] for name, x in tree.items()}

    monkeypatch.setattr(jax, "device_get", device_get)

    def go(last=lambda: None, saved=(STEPS,), begin=0, **changes):
        settings = {
            "loop": loop.Loop(batch_size=1),
            "num_steps": STEPS,
            "schedule": schedule(Optim(learning_rate=1.0), STEPS),
            "put": jax.device_put,
            "evaluate": None,
            "experiment": {},
            "quiet": True,
        }
        state = TrainState(jax.device_put(np.int32(begin)), {"w": jax.device_put(np.zeros(2))}, ())
        with (
            Unsaved(tmp_path, last) as checkpoints,
            MetricLog(tmp_path, tensorboard=False) as metrics,
            jax.transfer_guard("disallow"),
            contextlib.suppress(DrawFailed),
        ):
            try:
                loop.train(
                    state, step, Feed(), checkpoints=checkpoints, metrics=metrics,
                    **(settings | changes),
                )  # fmt: skip
            finally:
                assert checkpoints.saved == list(saved)
        return did

    return go


def test_an_update_is_read_once_the_next_one_is_launched(run):
    assert run() == [
        *("launch 1", "launch 2", "read 1", "launch 3", "read 2", "launch 4", "read 3"),
        "read 4",  # the last has no next one
    ]


def test_an_evaluation_or_a_checkpoint_reads_what_is_before_it_and_no_more(run):
    found = run(loop=loop.Loop(batch_size=1, eval_steps=2), evaluate=lambda step, params: {})
    assert found == [
        *("launch 1", "launch 2", "read 1", "read 2"),
        *("launch 3", "launch 4", "read 3", "read 4"),
    ]


def test_a_request_to_stop_is_honoured_while_the_last_save_is_written(run, caplog):
    written = []

    def last():
        if not written:
            signal.raise_signal(signal.SIGTERM)
        written.append("whole")

    with pytest.raises(loop.Interrupted) as stopped:
        run(last=last)
    assert (stopped.value.code, written[0]) == (0, "whole")
    assert caplog.messages == [f"SIGTERM: saved step {STEPS} of {STEPS}; run again to go on"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_without_save_steps_a_run_saves_by_the_clock(run, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)  # due after every update
    run(saved=(1, 2, 3, 4))


def test_with_save_steps_the_clock_saves_nothing(run, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    run(loop=loop.Loop(batch_size=1, save_steps=2), saved=(2, 4))


def test_where_bad_updates_roll_back_each_is_read_before_the_next_is_launched(run):
    settings = loop.Loop(batch_size=1, on_bad_update="roll_back", save_steps=2)
    assert run(loop=settings, saved=(2, 4)) == [
        *("launch 1", "read 1", "launch 2", "read 2"),
        *("launch 3", "read 3", "launch 4", "read 4"),
    ]


def test_to_roll_back_needs_save_steps():
    with pytest.raises(BadInput) as error:
        loop.Loop(on_bad_update="roll_back").check()
    assert str(error.value) == (
        "loop.save_steps: expected a number of updates between the checkpoints that bad updates "
        "roll back to; got None.\n"
        "    Give loop.save_steps, such as 100; or set loop.on_bad_update to skip."
    )
    loop.Loop(on_bad_update="roll_back", save_steps=100).check()
    assert loop.Loop(on_bad_update="skip", save_steps=100).target_steps is None


def test_the_log_is_on_the_disk_before_a_checkpoint_is_begun(run, monkeypatch):
    did, flush, save = [], MetricLog.flush, Unsaved.save
    monkeypatch.setattr(MetricLog, "flush", lambda self: (did.append("log"), flush(self)))

    def saves(self, *of, **named):
        did.append("checkpoint")
        save(self, *of, **named)

    monkeypatch.setattr(Unsaved, "save", saves)
    run()
    assert did[:2] == ["log", "checkpoint"]


def test_who_asks_to_stop_does_not_wait_for_an_evaluation_which_is_made_up_for(run, caplog):
    looked, settings = [], loop.Loop(batch_size=1, eval_steps=2)

    def evaluate(step, params):
        looked.append(step)
        return {"eval_loss": 1.0}

    def put(arrays):
        if int(arrays[0][0]) == 2:  # of the second update
            signal.raise_signal(signal.SIGTERM)
        return jax.device_put(arrays)

    with pytest.raises(loop.Interrupted):
        run(loop=settings, evaluate=evaluate, put=put, saved=(2,))
    assert looked == [0]
    assert caplog.messages == ["SIGTERM: saved step 2 of 4; run again to go on"]
    run(loop=settings, evaluate=evaluate, begin=2)
    assert looked == [0, 2, 4]


def test_who_asks_to_stop_within_an_evaluation_does_not_wait_for_the_next_drawing(run, caplog):
    def evaluate(step, params):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return {"eval_loss": 1.0}

    with pytest.raises(loop.Interrupted):
        run(loop=loop.Loop(batch_size=1, eval_steps=2), evaluate=evaluate, saved=(2,))
    assert caplog.messages == ["SIGTERM: saved step 2 of 4; run again to go on"]


def test_arrays_that_are_not_put_on_the_device_are_refused_by_the_guard(run):
    """What makes the tests above claims: the guard sees a transfer that nobody asked for."""
    double = jax.jit(lambda x: 2 * x)
    double(jax.device_put(np.zeros(3, np.float32)))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(put=lambda arrays: (double(*arrays),), saved=())


def test_what_was_learnt_before_a_reward_failed_in_an_evaluation_is_saved_and_it_is_made_up_for(
    run,
):
    looked = []

    def fails(step, params):
        looked.append(step)
        if step == 2:
            raise DrawFailed("a judge", "none", "Start it.")
        return {"eval_loss": 1.0}

    settings = loop.Loop(batch_size=1, eval_steps=2)
    run(loop=settings, evaluate=fails, saved=(2,))

    def works(step, params):
        looked.append(step)
        return {"eval_loss": 1.0}

    run(loop=settings, evaluate=works, begin=2)
    assert looked == [0, 2, 2, 4]
    run(loop=settings, evaluate=works, begin=2)  # now it is in the log
    assert looked == [0, 2, 2, 4, 4]


def test_updates_are_those_that_the_groups_fill():
    # 228 / 16 is 14.25, twice that 28.5; 0.29 * 100 is 28.999999999999996 in binary.
    assert loop.Loop(batch_size=16).num_steps(228) == 14
    assert loop.Loop(batch_size=16, num_train_epochs=2.0).num_steps(228) == 28
    assert loop.Loop(batch_size=1, num_train_epochs=0.29).num_steps(100) == 29
    assert loop.Loop(batch_size=16).num_steps(3) == 1
    assert loop.Loop(batch_size=16, max_steps=5).num_steps(228) == 5
