"""An update that cannot be trusted changes nothing, is written out, and is dealt with as asked."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignax import jobs
from alignax.config import Evaluation
from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.types import TrainState
from alignax.data.pipeline import build_step
from alignax.data.plan import make_plan
from alignax.methods import SFT
from alignax.train.bad_updates import BadUpdates
from alignax.train.checkpoint import Checkpoints
from alignax.train.loop import Interrupted, Loop
from alignax.train.step import SKIPPED, init_state, make_step
from alignax.train.watchdog import Watchdog
from tests.run_files import lines
from tests.tiny import FIRST_BYTE
from tests.tiny_batch import model_fn, params, random_table
from tests.tiny_model import experiment as tiny

BAD = {SKIPPED: 1.0, "loss": float("nan"), "grad_norm": 1.0}


@dataclasses.dataclass(frozen=True)
class Trap(Method):
    """SFT whose loss is not finite on prompts with a `#` in them."""

    def needs(self):
        return SFT().needs()

    def group(self, record):
        return SFT().group(record)

    def loss(self, outputs, batch):
        loss, metrics = SFT().loss(outputs, batch)
        caught = jnp.any(batch.prompts == FIRST_BYTE + ord("#"), axis=-1)
        return jnp.where(caught, jnp.nan, loss), metrics


def trapped(folder, **loop):
    """Six updates of 4 demonstrations; the prompt of one of the 24 has the sign."""
    made = tiny(
        folder,
        method=Trap(),
        loop=Loop(**{"batch_size": 4, "max_steps": 6, "save_steps": 1, "keep": 9} | loop),
        evaluation=Evaluation(num_prompts=0),
    )
    for name, sign in (("train", "#"), ("test", "")):
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(24):
                prompt = f"Is {i} a number?" + sign * (i == 7)
                file.write(json.dumps({"prompt": prompt, "completion": "yes"}) + "\n")
    return made


def test_a_run_stops_at_a_loss_that_is_not_finite_and_shows_the_batch(tmp_path):
    with pytest.raises(BadInput, match="expected a finite loss and gradient; got loss") as error:
        jobs.train(trapped(tmp_path), quiet=True)
    (path,) = (tmp_path / "run").glob("bad-update-*.jsonl")
    assert str(path) in str(error.value)
    rows = lines(path)
    assert len(rows) == 4
    assert sum("Is 7 a number?#" in row["prompt"] for row in rows) == 1
    assert all("yes" in row["completions"][0] for row in rows)


def test_a_run_that_skips_goes_on_with_the_parameters_from_before(tmp_path):
    jobs.train(trapped(tmp_path, on_bad_update="skip"), quiet=True)
    logged = [x for x in lines(tmp_path / "run" / "metrics.jsonl") if "loss" in x]
    skipped = [x["step"] for x in logged if "skipped" in x]
    assert len(skipped) == 1
    assert [x["step"] for x in logged] == [1, 2, 3, 4, 5, 6]
    made = trapped(tmp_path, on_bad_update="skip")
    run = jobs.Run(made, quiet=True)
    with jax.set_mesh(run.mesh):
        states = (
            [jobs.newest(run, step)[1] for step in (skipped[0] - 1, skipped[0])]
            if (skipped[0] > 1)
            else [run.initial_policy(), jobs.newest(run, 1)[1]]
        )
        last = jobs.newest(run, 6)[1]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(last))


def test_a_gradient_beyond_the_largest_norm_changes_counts_alone():
    table, optimizer = random_table(4, responses=1), optax.adam(0.1)
    plan = make_plan(table.lengths, batch_size=4, num_steps=1, align=8)
    arrays = jax.tree.map(jnp.asarray, build_step(table, plan, 0))
    begin = init_state(params(), optimizer)
    free, metrics = make_step(SFT(), model_fn, optimizer)(begin, *arrays)
    assert float(metrics[SKIPPED]) == 0.0
    norm = float(metrics["grad_norm"])
    for largest, moves in ((1.01 * norm, True), (0.99 * norm, False)):
        step = make_step(SFT(), model_fn, optimizer, largest_norm=largest)
        state, metrics = step(begin, *arrays)
        assert float(metrics[SKIPPED]) == 1.0 - moves
        expected = free if moves else begin
        jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
        jax.tree.map(np.testing.assert_array_equal, state.opt_state[0].mu, expected.opt_state[0].mu)
        assert int(state.step) == int(state.opt_state[0].count) == 1


def state_of(step, value):
    moments = optax.ScaleByAdamState(jnp.int32(step), jnp.float32(value), jnp.float32(value))
    return TrainState(jnp.int32(step), {"w": jnp.float32(value)}, (moments,))


def test_rolling_back_takes_what_was_learnt_and_leaves_counts(tmp_path):
    bad = BadUpdates("roll_back", 5)
    with Checkpoints(tmp_path, target_steps=2) as checkpoints:
        checkpoints.save(2, state_of(2, 0.25), position={}, experiment={})
        now = state_of(5, 8.0)
        assert bad.rolled_back(now, checkpoints) is now
        bad.look(5, dict(BAD), None)
        found = bad.rolled_back(now, checkpoints)
        assert bad.rolled_back(now, checkpoints) is now  # once
    jax.tree.map(np.testing.assert_array_equal, found, state_of(5, 8.0)._replace(
        params={"w": np.float32(0.25)},
        opt_state=(optax.ScaleByAdamState(jnp.int32(5), jnp.float32(0.25), jnp.float32(0.25)),),
    ))  # fmt: skip


def test_rolling_back_needs_a_checkpoint(tmp_path):
    bad = BadUpdates("roll_back", 5)
    bad.look(1, dict(BAD), None)
    with Checkpoints(tmp_path, target_steps=2) as checkpoints:
        checkpoints.save(1, state_of(1, 1.0), position={}, experiment={})
        with pytest.raises(BadInput) as error:
            bad.rolled_back(state_of(1, 1.0), checkpoints)
    assert str(error.value) == (
        "step 1: expected a checkpoint to roll back to, at a multiple of loop.save_steps; got none "
        "yet.\n    Run again with a lower loop.save_steps, or with loop.on_bad_update at skip."
    )


def test_what_is_rolled_back_to_is_kept_and_is_none_that_was_saved_on_stopping(tmp_path):
    bad = BadUpdates("roll_back", 5)
    with Checkpoints(tmp_path, keep=1, target_steps=2) as checkpoints:
        for step in (2, 4, 5, 7):
            checkpoints.save(step, state_of(step, step / 8), position={}, experiment={})
        checkpoints.wait()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-7"]
        bad.look(9, dict(BAD), None)
        found = bad.rolled_back(state_of(9, 8.0), checkpoints)
    assert float(found.params["w"]) == 0.5


def test_a_run_stopped_at_a_bad_update_and_resumed_rolls_back_as_an_unbroken_one(
    tmp_path, monkeypatch
):
    made = trapped(tmp_path, on_bad_update="roll_back", save_steps=2, keep=1)
    jobs.train(made, quiet=True)
    whole = tmp_path / "run"
    (skipped,) = [x["step"] for x in lines(whole / "metrics.jsonl") if "skipped" in x]
    assert 2 < skipped < 6
    broken = dataclasses.replace(made, output_dir=str(tmp_path / "broken"))
    # Before it, where the checkpoint is none to go back to, and at it.
    for stop in (skipped - 1, skipped):
        monkeypatch.setattr(processes, "asked_to_stop", lambda step, _, stop=stop: step == stop)
        with pytest.raises(Interrupted):
            jobs.train(broken, quiet=True)
    monkeypatch.undo()
    jobs.train(broken, quiet=True)
    for name in ("metrics.jsonl", "export/model.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (whole / name).read_bytes()


def test_too_many_in_a_row_stop_a_run_that_skips():
    bad = BadUpdates("skip", 2)
    for step in (1, 2):
        bad.look(step, dict(BAD), None)
    good = {SKIPPED: 0.0, "loss": 1.0, "grad_norm": 1.0}
    bad.look(3, good, None)
    assert SKIPPED not in good
    for step in (4, 5):
        bad.look(step, dict(BAD), None)
    with pytest.raises(BadInput, match="at most 2 bad updates in a row"):
        bad.look(6, dict(BAD), None)


def test_a_large_gradient_is_named_as_what_it_is():
    with pytest.raises(BadInput, match=r"at most loop.largest_grad_norm; got loss 1, gradient "):
        BadUpdates("stop", 5).look(3, {SKIPPED: 1.0, "loss": 1.0, "grad_norm": 9.0}, None)


def test_a_run_that_does_not_move_says_where_it_stands(tmp_path, monkeypatch):
    import sys
    import time

    with (tmp_path / "stderr").open("w+") as file:
        monkeypatch.setattr(sys, "__stderr__", file)
        with Watchdog(1) as watchdog:
            watchdog.update()
            time.sleep(1.5)
        file.seek(0)
        said = file.read()
    assert "most recent call first" in said
    assert "test_a_run_that_does_not_move_says_where_it_stands" in said
