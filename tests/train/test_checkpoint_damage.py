import logging
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from alignax.core.errors import BadInput
from alignax.train.checkpoint import Checkpoints
from tests.train.saved import abstract, array_file, assert_same_bits, make_state, restore, save


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
