import json
import logging
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as ocp

from alignax.core.errors import BadInput
from alignax.core.types import TrainState
from alignax.train.checkpoint import Checkpoints
from alignax.train.checkpoint_names import check_writable

POSITION, EXPERIMENT = {"next_index": 64, "epoch": 1}, {"method": "dpo", "beta": 0.1}


def mesh(shape, names):
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def make_state(step, width=16):
    """Every kind of leaf that a run has, and values that tell one step from another."""
    keys = jax.random.split(jax.random.key(step), 3)
    params = {
        "embed": jax.random.normal(keys[0], (32, width), jnp.bfloat16),
        "layers": {"up": jax.random.normal(keys[1], (2, width, 24)), "scale": jnp.ones(width)},
        "table": jax.random.randint(keys[2], (7,), -(2**31), 2**31 - 1),
        "nothing": {},
    }
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1e-3, 0.0, 10))
    )
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), tx.init(params))
    return TrainState(jnp.int32(step), params, opt_state)


def abstract(state, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state
    )


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(directory, *steps, keep=2):
    with Checkpoints(directory, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), position=POSITION, experiment=EXPERIMENT)


def restore(directory, step=0):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(abstract(make_state(step)))


def array_file(checkpoint):
    """The file that holds the arrays: the biggest."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_what_is_restored_is_what_was_saved_bit_for_bit(tmp_path):
    save(tmp_path, 3)
    restored = restore(tmp_path)
    assert_same_bits(restored.state, make_state(3))
    assert restored._replace(state=None) == (3, None, POSITION, EXPERIMENT, [])


def test_positions_are_those_of_all_checkpoints_and_of_the_one_being_saved(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.positions() == []
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), position={"at": step}, experiment={})
            assert {"at": step} in checkpoints.positions()
        checkpoints.wait()
        assert {x["at"] for x in checkpoints.positions()} == {2, 3}
    (tmp_path / "checkpoint-2" / "alignax.json").write_text("{")
    assert Checkpoints(tmp_path).positions() == [{"at": 3}]


def test_special_floats_keep_their_bits(tmp_path):
    # Signed zero, the smallest denormal, infinities, a NaN with a payload.
    bits = np.array([0x80000000, 1, 0x7F800000, 0xFF800000, 0x7FC00123], np.uint32)
    state = TrainState(jnp.int32(1), {"w": jnp.asarray(bits.view(np.float32))}, ())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, position={}, experiment={})
        found = checkpoints.restore(abstract(state)).state.params["w"]
    np.testing.assert_array_equal(np.asarray(found).view(np.uint32), bits)


def test_names_with_dots_are_not_confused(tmp_path):
    # Orbax alone joins names with dots, and restores both of these as one array.
    params = {"a.b": jnp.ones(2), "a": {"b": jnp.zeros(2)}}
    state = TrainState(jnp.int32(1), params, ())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, position={}, experiment={})
        assert_same_bits(checkpoints.restore(abstract(state)).state, state)


def test_a_state_is_restored_onto_another_mesh(tmp_path):
    state = make_state(5)
    before = NamedSharding(mesh((8,), ("fsdp",)), P())
    sharded = jax.device_put(state, before)
    params = dict(
        sharded.params,
        embed=jax.device_put(state.params["embed"], NamedSharding(before.mesh, P("fsdp"))),
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, sharded._replace(params=params), position={}, experiment={})
    after = mesh((2, 4), ("data", "tensor"))
    target = abstract(state, NamedSharding(after, P()))
    wanted = NamedSharding(after, P("tensor", "data"))
    target.params["embed"] = jax.ShapeDtypeStruct((32, 16), jnp.bfloat16, sharding=wanted)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(target).state
    assert_same_bits(found, state)
    assert found.params["embed"].sharding == wanted
    one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(abstract(state, one)).state
    assert_same_bits(found, state)
    assert found.params["embed"].sharding == one


@pytest.mark.parametrize("spec", [None, P(), P("fsdp")], ids=["single", "replicated", "sharded"])
def test_donating_the_state_right_after_save_does_not_reach_the_checkpoint(tmp_path, spec):
    devices = mesh((8,), ("fsdp",))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    whole = one if spec is None else NamedSharding(devices, P())
    split = one if spec is None else NamedSharding(devices, spec)
    add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    params = {f"w{i}": jax.device_put(jnp.zeros((1024, 1024)), split) for i in range(8)}
    state = TrainState(jax.device_put(jnp.int32(0), whole), params, ())
    target = abstract(state)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            state = add(state)
            checkpoints.save(step, state, position={}, experiment={})
            for _ in range(9):
                state = add(state)
            jax.block_until_ready(state)
            found = checkpoints.restore(target).state
            for x in jax.tree.leaves(found):
                np.testing.assert_array_equal(np.asarray(x), 10 * (step - 1) + 1)


def test_save_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    class Slow:
        def __init__(self, saving):
            self.saving = saving

        def result(self):
            time.sleep(0.5)
            return self.saving.result()

    begin = ocp.save_async
    monkeypatch.setattr(ocp, "save_async", lambda *args: Slow(begin(*args)))
    with Checkpoints(tmp_path) as checkpoints:
        start = time.monotonic()
        checkpoints.save(1, make_state(1), position={}, experiment={})
        assert time.monotonic() - start < 0.4
        assert not (tmp_path / "checkpoint-1").exists()
        checkpoints.wait()
        assert (tmp_path / "checkpoint-1").exists()


def test_settings_changed_after_save_are_saved_as_they_were(tmp_path):
    position = {"next_index": 1}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), position=position, experiment={})
        position["next_index"] = 99
        assert checkpoints.restore(abstract(make_state(1))).position == {"next_index": 1}


def test_the_newest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 10, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-20"]
    assert restore(tmp_path).step == 20


def test_an_old_one_that_cannot_be_deleted_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    def refuse(self, path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Checkpoints, "_remove", refuse)
    save(tmp_path, 1, 2, keep=1)
    (message,) = caplog.messages
    assert message == (f"could not delete {tmp_path}/checkpoint-1: [Errno 13] Permission denied")
    assert restore(tmp_path).step == 2


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 1):
            checkpoints.save(step, make_state(1), position=POSITION, experiment=EXPERIMENT)
    assert restore(tmp_path).step == 1


def test_other_names_in_the_directory_are_left_alone(tmp_path):
    for name in ("checkpoint-best", "checkpoint-3-old", "final"):
        (tmp_path / name).mkdir(parents=True)
    save(tmp_path, 1, 2, 3)
    assert {"checkpoint-best", "checkpoint-3-old", "final"} < set(os.listdir(tmp_path))
    assert restore(tmp_path).step == 3


@pytest.mark.parametrize("character", "*?[")
def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path, character):
    path = tmp_path / f"lr{character}1]" / "run"
    for refuses in (Checkpoints, lambda path: check_writable(path, 0)):
        with pytest.raises(BadInput) as error:
            refuses(path)
        assert str(error.value) == (
            f"output_dir: expected a path without the characters * ? [; got {path}.\n"
            "    Rename it, or give another output_dir."
        )
    assert os.listdir(tmp_path) == []


def test_where_nothing_was_saved_nothing_is_restored(tmp_path):
    assert restore(tmp_path / "new") is None
    assert restore(tmp_path) is None
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_whole() is None


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def test_orbax_alone_does_not_notice_a_flipped_bit(tmp_path):
    # Why there is a record of our own. Where this fails, Orbax has learnt to.
    # Noise, which does not compress, so that half-way through the file is array data.
    saved = jax.random.normal(jax.random.key(0), (64, 64))
    ocp.save(tmp_path / "x", {"w": saved})
    flip(array_file(tmp_path / "x"))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=one)}
    assert not np.array_equal(ocp.load(tmp_path / "x", wanted)["w"], saved)


def damage(checkpoint, how):
    arrays = array_file(checkpoint)
    inside = arrays.relative_to(checkpoint)
    record = checkpoint / "alignax.json"
    match how:
        case "flipped bit":
            flip(arrays)
            return f"{inside} has changed since it was written"
        case "truncated":
            size = arrays.stat().st_size
            os.truncate(arrays, 100)
            return f"{inside} has 100 bytes instead of {size:,}"
        case "deleted":
            arrays.unlink()
            return f"{inside} is missing"
        case "metadata deleted":
            (checkpoint / "state" / "_METADATA").unlink()
            return "state/_METADATA is missing"
        case "metadata changed":
            flip(checkpoint / "state" / "_METADATA")
            return "state/_METADATA has changed since it was written"
        case "record deleted":
            record.unlink()
            return "alignax.json is missing"
        case "record truncated":
            os.truncate(record, 50)
            return "alignax.json cannot be read: "
        case "record changed":
            record.write_text(record.read_text().replace('"next_index": 64', '"next_index": 65'))
            return "alignax.json cannot be read: its checksum differs"
        case "record of another kind":
            record.write_text("[]")
            return "alignax.json cannot be read: "
        case "emptied":
            shutil.rmtree(checkpoint)
            checkpoint.mkdir()
            return "alignax.json is missing"
    raise AssertionError(how)


DAMAGES = [
    "flipped bit",
    "truncated",
    "deleted",
    "metadata deleted",
    "metadata changed",
    "record deleted",
    "record truncated",
    "record changed",
    "record of another kind",
    "emptied",
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_and_said_so(tmp_path, caplog, how):
    save(tmp_path, 1, 2)
    reason = damage(tmp_path / "checkpoint-2", how)
    restored = restore(tmp_path)
    assert_same_bits(restored.state, make_state(1))
    ((path, why),) = restored.skipped
    assert path == str(tmp_path / "checkpoint-2")
    assert why.startswith(reason)
    assert caplog.record_tuples == [("alignax", logging.WARNING, f"skipped {path}: {why}")]


def test_a_checkpoint_without_what_its_position_needs_is_skipped_and_said_so(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), position={"file": step}, experiment={})
        restored = checkpoints.restore(
            abstract(make_state(0)),
            missing=lambda position: "2 is gone" if position["file"] == 2 else None,
        )
    assert (restored.step, restored.position) == (1, {"file": 1})
    assert restored.skipped == [(str(tmp_path / "checkpoint-2"), "2 is gone")]


def test_a_run_replaces_what_was_damaged_when_it_gets_there_again(tmp_path):
    save(tmp_path, 1, 2)
    damage(tmp_path / "checkpoint-2", "flipped bit")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0))).step == 1
        checkpoints.save(2, make_state(2), position={}, experiment={})
        restored = checkpoints.restore(abstract(make_state(0)))
    assert_same_bits(restored.state, make_state(2))
    assert restored.skipped == []


def test_a_damaged_checkpoint_does_not_count_among_those_kept(tmp_path):
    save(tmp_path, 1, 4)
    damage(tmp_path / "checkpoint-4", "truncated")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0))).step == 1
        for step in (2, 3):
            checkpoints.save(step, make_state(step), position={}, experiment={})
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert restore(tmp_path).step == 3


def test_where_all_are_damaged_it_says_so_and_what_to_do(tmp_path):
    save(tmp_path, 1, 2)
    one = damage(tmp_path / "checkpoint-1", "deleted")
    two = damage(tmp_path / "checkpoint-2", "record deleted")
    with pytest.raises(BadInput) as error:
        restore(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: expected a whole checkpoint; got 2 damaged: "
        f"{tmp_path}/checkpoint-2 ({two}); {tmp_path}/checkpoint-1 ({one}).\n"
        "    Put the files back from a copy; or delete these checkpoints, or give another "
        "output_dir, to begin from the start."
    )


def test_what_a_kill_left_half_written_is_skipped_and_cleared_away(tmp_path, caplog):
    save(tmp_path, 1)
    for name in ("checkpoint-2.partial", "checkpoint-3.partial.orbax-checkpoint-tmp"):
        shutil.copytree(tmp_path / "checkpoint-1", tmp_path / name)
    assert restore(tmp_path).step == 1
    assert caplog.messages == [
        f"skipped {tmp_path}/{name}: it was cut short while it was being saved"
        for name in ("checkpoint-2.partial", "checkpoint-3.partial.orbax-checkpoint-tmp")
    ]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, make_state(2), position={}, experiment={})
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-1", "checkpoint-2"]


def test_what_a_kill_left_after_the_last_save_is_cleared_away_by_the_run_that_finds_it(tmp_path):
    """A run of 4 updates killed while it deleted the older ones: nothing is saved again."""
    save(tmp_path, 2, 3, 4, keep=9)
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-1.partial-deleted")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(abstract(make_state(4))).step == 4
        checkpoints.tidy()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-3", "checkpoint-4"]


def test_who_only_looks_at_a_run_deletes_nothing_of_it(tmp_path):
    (tmp_path / "checkpoint-1.partial").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state(1))) is None
        checkpoints.tidy()
    assert os.listdir(tmp_path) == ["checkpoint-1.partial"]


def test_a_run_killed_in_its_first_save_begins_anew(tmp_path):
    (tmp_path / "checkpoint-1.partial.orbax-checkpoint-tmp").mkdir()
    assert restore(tmp_path) is None


def restore_error(directory, state):
    with pytest.raises(BadInput) as error, Checkpoints(directory) as checkpoints:
        checkpoints.restore(abstract(state))
    return str(error.value)


def test_another_shape_is_refused_by_the_first_name_that_differs(tmp_path):
    save(tmp_path, 1)
    assert restore_error(tmp_path, make_state(1, width=8)) == (
        f"{tmp_path}/checkpoint-1: expected params/embed of bfloat16[32, 8]; "
        "got bfloat16[32, 16].\n"
        "    It is of another model or optimiser. Resume with the experiment that alignax.json in "
        "it holds, or give another output_dir."
    )


def test_another_dtype_is_refused(tmp_path):
    save(tmp_path, 1)
    state = make_state(1)
    state.params["embed"] = state.params["embed"].astype(jnp.float32)
    text = "expected params/embed of float32[32, 16]; got bfloat16[32, 16]."
    assert text in restore_error(tmp_path, state)


def test_a_parameter_more_or_less_is_refused(tmp_path):
    save(tmp_path, 1)
    state = make_state(1)
    state.params["value"] = jnp.ones(3)
    assert "expected params/value of float32[3]; got none." in restore_error(tmp_path, state)
    state = make_state(1)
    del state.params["table"]
    assert "expected no params/table; got int32[7]." in restore_error(tmp_path, state)


def test_another_optimiser_is_refused(tmp_path):
    save(tmp_path, 1)
    state = make_state(1)
    state = state._replace(opt_state=optax.sgd(0.1, momentum=0.9).init(state.params))
    assert "of another model or optimiser" in restore_error(tmp_path, state)


def test_a_run_does_not_write_under_the_checkpoints_of_another(tmp_path):
    save(tmp_path, 100)
    with pytest.raises(BadInput) as error:
        save(tmp_path, 10)
    assert str(error.value) == (
        f"{tmp_path}/checkpoint-10: expected a step after 100, the newest checkpoint in the "
        "directory; got 10.\n"
        "    Resume from it, or give the new run another output_dir."
    )


def test_a_save_that_fails_in_the_background_is_an_error_of_the_next_call(tmp_path):
    # A real failure of a write: no file may grow beyond what the first checkpoint is far below.
    save(tmp_path, 1)
    big = TrainState(jnp.int32(2), {"w": jax.random.normal(jax.random.key(0), (1024, 1024))}, ())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(abstract(make_state(1)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            checkpoints.save(2, big, position={}, experiment={})
            with pytest.raises(BadInput) as error:
                checkpoints.save(3, big, position={}, experiment={})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        text = str(error.value)
        assert text.startswith(f"{tmp_path}/checkpoint-2: expected to write the checkpoint; got ")
        assert "File too large" in text
        assert f"{tmp_path}/checkpoint-1 is still there." in text
        assert os.listdir(tmp_path) == ["checkpoint-1"]
        # And the same object goes on when there is room again, with the very step that failed.
        checkpoints.save(2, big, position={}, experiment={})
    with Checkpoints(tmp_path) as checkpoints:
        assert_same_bits(checkpoints.restore(abstract(big)).state, big)


def test_a_full_disk_is_said_to_be_full(tmp_path, monkeypatch):
    class Full:
        def result(self):
            # What Orbax 0.12.8 raised on a full tmpfs.
            raise ValueError(
                'RESOURCE_EXHAUSTED: Failed writing: "d": Failed to write 8400896 bytes to file '
                "17: No space left on device [os_error_code='28']"
            )

    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore(abstract(make_state(1)))
    monkeypatch.setattr(ocp, "save_async", lambda *args: Full())
    checkpoints.save(2, make_state(2), position={}, experiment={})
    with pytest.raises(BadInput, match="No space left") as error:
        checkpoints.close()
    assert "bytes are free" in error.value.got
    assert error.value.remedy == (
        "Free some disk space, or give another output_dir, and start again. "
        f"{tmp_path}/checkpoint-1 is still there."
    )


def test_a_directory_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "run"
    with pytest.raises(BadInput) as error:
        save(path, 1)
    assert str(error.value) == (
        f"{path}/checkpoint-1: expected to write the checkpoint; "
        f"got NotADirectoryError: [Errno 20] Not a directory: '{path}'.\n"
        "    Make the directory writable, or give another output_dir, and start again. "
        "None is there yet."
    )
    with pytest.raises(BadInput) as error:
        check_writable(path, 1)
    assert str(error.value) == (
        f"{path}: expected a directory that can be written; "
        "got NotADirectoryError: Not a directory.\n"
        "    Change its permissions, or give another output_dir."
    )


def test_processes_that_probe_a_directory_at_once_do_not_refuse_it(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: check_writable(tmp_path / "run", 0), range(2_000)))
    assert os.listdir(tmp_path / "run") == []


def test_too_small_a_disk_is_refused_with_both_numbers(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_writable(tmp_path / "run", 1_000_000)
    assert os.listdir(tmp_path / "run") == []
    with pytest.raises(BadInput) as error:
        check_writable(tmp_path / "run", 3_200_000_000)
    assert str(error.value) == (
        f"{tmp_path}/run: expected 3,200,000,000 bytes of free disk space; got 1,000,000.\n"
        "    Free some, keep fewer checkpoints, or give another output_dir."
    )


def test_none_to_keep_is_refused(tmp_path):
    with pytest.raises(BadInput, match="keep: expected at least 1; got 0"):
        Checkpoints(tmp_path, keep=0)


SAVE_FOR_EVER = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, jax.numpy as jnp
from alignax.core.types import TrainState
from alignax.train.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1])
one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
shape = lambda s, d: jax.ShapeDtypeStruct(s, d, sharding=one)
target = TrainState(shape((), jnp.int32), {"w": shape((256, 1024), jnp.float32)}, ())
restored = checkpoints.restore(target)
step = restored.step if restored else 0
print("ready", flush=True)
while True:
    step += 1
    params = {"w": jnp.arange(2**18, dtype=jnp.float32).reshape(256, 1024) * step}
    state = TrainState(jnp.int32(step), params, ())
    checkpoints.save(step, state, position={"next": 8 * step}, experiment={})
    print("saving", step, flush=True)
"""


def test_a_run_killed_at_any_moment_has_a_whole_checkpoint(tmp_path):
    cut = reached = 0
    chance = random.Random(0)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32, sharding=one),
        {"w": jax.ShapeDtypeStruct((256, 1024), jnp.float32, sharding=one)},
        (),
    )
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        with child:
            assert child.stdout.readline() == "ready\n"
            # When a save begins the one before is whole, so after two there is something to keep.
            for _ in range(chance.randint(2, 5)):
                child.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.1))
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        cut += any(".partial" in name for name in os.listdir(tmp_path))
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(target)
        assert restored is not None
        assert restored.skipped == []
        assert restored.step > reached  # each life adds a save at least
        reached = restored.step
        assert int(restored.state.step) == reached
        assert restored.position == {"next": 8 * reached}
        expected = np.arange(2**18, dtype=np.float32).reshape(256, 1024) * reached
        np.testing.assert_array_equal(np.asarray(restored.state.params["w"]), expected)
    assert cut > 0  # or no kill fell into a save, and nothing was tested


TWO_PROCESSES = """
import json, os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy as np
directory, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, index)
from alignax.core.types import TrainState
from alignax.train import integrity
from alignax.train.checkpoint import Checkpoints

def size_and_crc(path, size_and_crc=integrity._size_and_crc):
    read.append(str(path).partition("/checkpoint-3")[2].partition("/")[2])
    return size_and_crc(path)
read, integrity._size_and_crc = [], size_and_crc
mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
whole = np.arange(64, dtype=np.float32).reshape(8, 8)
def state(step):
    w = jax.make_array_from_callback((8, 8), sharding, lambda index: whole[index] * step)
    count = jax.make_array_from_callback((), everywhere, lambda index: np.int32(step))
    return TrainState(count, {"w": w}, ())
with Checkpoints(directory) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), position={"next": step}, experiment={})
    checkpoints.wait()
    written = [name for name in read if name]
    read.clear()
    found = checkpoints.latest_whole()
    checked = [name for name in read if name]
    if index == 0:
        (checkpoints._path(3) / "alignax.json").unlink()
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    target = jax.tree.map(shape, state(0))
    restored = checkpoints.restore(target)
    for shard in restored.state.params["w"].addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), whole[shard.index] * 2)
    (skipped,) = [why for _, why in restored.skipped]
    result = [found, restored.step, restored.position, skipped, written, checked]
    print("RESULT", json.dumps(result), flush=True)
"""


def test_processes_of_one_run_save_and_restore_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(tmp_path), str(port), str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for index in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
    shares = []
    for child, (out, err) in zip(children, outputs, strict=True):
        assert child.returncode == 0, err
        result = next(line for line in out.splitlines() if line.startswith("RESULT"))
        *restored, written, checked = json.loads(result.removeprefix("RESULT"))
        assert restored == [3, 2, {"next": 2}, "alignax.json is missing"]
        assert sorted(written) == sorted(checked)
        shares.append(written)
    # Each process reads what it has written, and all is read once.
    for index, share in enumerate(shares):
        assert any(f"ocdbt.process_{index}/d/" in name for name in share)
        assert not any(f"process_{1 - index}" in name for name in share)
    names = [
        str(path.relative_to(tmp_path / "checkpoint-3"))
        for path in (tmp_path / "checkpoint-3").rglob("*")
        if path.is_file()
    ]
    assert sorted(shares[0] + shares[1]) == sorted(names)
