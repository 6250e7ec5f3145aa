import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.types import TrainState
from alignax.train.checkpoint import Checkpoints

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
