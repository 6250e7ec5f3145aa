import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as ocp

from alignax.core.errors import BadInput
from alignax.core.types import TrainState
from alignax.train.checkpoint import Checkpoints
from alignax.train.checkpoint_names import check_writable
from tests.train.saved import (
    EXPERIMENT,
    POSITION,
    abstract,
    assert_same_bits,
    make_state,
    mesh,
    restore,
    save,
)


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
