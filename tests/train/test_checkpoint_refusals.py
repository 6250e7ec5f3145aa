import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from alignax.core.errors import BadInput
from alignax.core.types import TrainState
from alignax.train.checkpoint import Checkpoints
from alignax.train.checkpoint_names import check_writable, not_left_empty
from tests.train.saved import abstract, assert_same_bits, make_state, save


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


@pytest.mark.parametrize("path", ["~no-such-user/x", "x" * 300])
def test_a_path_that_cannot_be_is_left_to_the_check_that_says_so(path):
    with pytest.raises(BadInput, match="expected a path"), not_left_empty(path):
        raise BadInput("a path", repr(path), "Give another.")


@pytest.mark.parametrize("there", [True, False])
def test_a_refusal_leaves_no_empty_folder_that_the_run_has_made(there, tmp_path):
    output = tmp_path / "runs" / "mine"
    if there:
        output.mkdir(parents=True)

    def refused_run(writes):
        output.mkdir(parents=True, exist_ok=True)
        if writes:
            (output / "metrics.jsonl").write_text("{}")
        raise BadInput("a", "b", "c")

    with pytest.raises(BadInput), not_left_empty(output):
        refused_run(writes=False)
    assert output.exists() == (tmp_path / "runs").exists() == there
    with pytest.raises(BadInput), not_left_empty(output):
        refused_run(writes=True)
    assert [path.name for path in output.iterdir()] == ["metrics.jsonl"]
