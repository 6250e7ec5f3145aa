"""What a TPU would run, compiled for one or eight of them without one: kernels and memory.

Bytes are those of one device. `given` is counted by shape, `memory` is what the compiler plans.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

fcntl = pytest.importorskip("fcntl", reason="another system than Linux, which alone has libtpu")
if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu, which has wheels for Linux on x86-64 only", allow_module_level=True)

VOCABULARY = 1024  # split over two devices, or whole
WIDTH = 192
ONCE = ["dkv", "dq", "fwd"]  # for all layers, which are scanned

# Parameters. Of a layer: queries, keys with values, and the way out 3 x 192 x 256, the MLP
# 3 x 192 x 160, two norms of 192. The embedding is 1024 x 192.
EMBEDDING, NORM, LAYER = 1024 * 192, 192, 3 * 192 * 256 + 3 * 192 * 160 + 2 * 192
ONE, TWO = (EMBEDDING + n * LAYER + NORM for n in (1, 2))
REWARD = ONE + 192  # its head; the embedding is there to be looked up
# Of eight devices four share a parameter, but norms, which have no axis that `tensor` splits.
HELD = TWO // 4 + 5 * NORM // 4
# As many heads of keys and values as of queries: 2 x 192 x 2 x 64 more a layer.
HELD_OF_HEADS = (TWO + 2 * 2 * 192 * 128) // 4 + 5 * NORM // 4
# A router of 192 x 4, split by its width alone, and four MLPs in place of one.
ROUTER = 192 * 4
HELD_OF_EXPERTS = (ONE + 3 * 3 * 192 * 160) // 4 + 3 * NORM // 4 + ROUTER // 2
# (inputs + outputs) x 8 for each of seven matrices.
RANKS = 8 * (
    (192 + 256) + 2 * (192 + 128) + (256 + 192) + 2 * (192 + 160) + (160 + 192)
)  # fmt: skip


def adam(count: int) -> int:
    """Parameters and two moments in float32; how many updates there were, twice."""
    return 4 * (3 * count + 2)


STATES = {
    "train": 4 * (HELD + 1),  # plain gradient descent keeps nothing
    "windows": adam(TWO + 4 * NORM),  # with norms after attention and MLP too
    "sequence": adam(HELD_OF_HEADS),
    "experts": adam(HELD_OF_EXPERTS),
    "reward": adam(REWARD),
    "critic": adam(ONE + REWARD),
    "int8": adam(RANKS),
    "nf4": adam(RANKS),
    # Four, who share the count of updates; each has one of the optimiser and one of the schedule.
    "members": 4 * (1 + 4 * (3 * ONE + 2)),
    "shipped block": adam(ONE),
}
MATRICES = LAYER - 2 * NORM
ELSE = 2 * (EMBEDDING + 3 * NORM)  # bfloat16
# A scale for each output: 256 + 2 x 128 of queries, keys, values; 192; 2 x 160; 192.
BYTE_EACH = MATRICES + 4 * (256 + 2 * 128 + 192 + 2 * 160 + 192)
# A scale for 64 inputs of an output, or 40 of the 160: 3 each of the 192, 4 of the 256 and 160.
HALF_EACH = MATRICES // 2 + 4 * (3 * 512 + 4 * 192 + 3 * 320 + 4 * 192)
FROZEN = {"int8": BYTE_EACH + ELSE, "nf4": HALF_EACH + ELSE}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiled once in a run: of two workers that share these tests one waits for the other."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the worker's own folder is in that of the run
        shared = shared.parent
    found = shared / "compiled_for_tpu.json"
    with open(shared / "compiled_for_tpu.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            found.write_text(compile_all())
    return json.loads(found.read_text())


def compile_all() -> str:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",  # those of the tests are for CPUs
        "TPU_SKIP_MDS_QUERY": "1",  # asks no server which machine this is
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs on a device that others could hold
    }
    command = [sys.executable, "-m", "tests.models.compile_for_tpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def sizes(program, *kinds):
    return [shape for kind, shape in program["shapes"] if kind in kinds]


@pytest.mark.parametrize("name", STATES)
def test_an_update_runs_the_kernel_forward_and_backward_once_for_all_layers(name, compiled):
    # A block that is computed again runs it forward again; a critic has its own.
    expected = {"windows": [*ONCE, "fwd"], "critic": sorted(2 * ONCE)}.get(name, ONCE)
    assert compiled[name]["kernels"] == expected
    # Experts' ragged products are kernels too.
    assert (compiled[name]["calls"] == len(expected)) is (name != "experts")


def test_rows_of_a_device_are_served_at_once_and_members_of_a_sweep_one_by_one(compiled):
    assert compiled["rows"]["kernels"] == ONCE
    # In a loop over kernels each turn takes slices, of what is visited and of the arrays.
    assert compiled["rows"]["slices"] == 0
    assert compiled["members"]["slices"] > 0


@pytest.mark.parametrize("name", STATES)
def test_an_update_holds_its_state_once(name, compiled):
    program = compiled[name]
    assert program["given"]["state"] == STATES[name]
    # Whole tiles of it are given away, and nothing else is.
    assert program["memory"]["alias"] == program["tiled"]["state"] >= STATES[name]
    # What comes beside it is some numbers for the log, each of a tile of 512 bytes.
    assert 0 < program["memory"]["output"] - program["memory"]["alias"] < 64 * 512


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_base_takes_what_its_bits_say(name, compiled):
    assert compiled[name]["given"]["frozen"] == FROZEN[name]


@pytest.mark.parametrize("name", STATES)
def test_an_update_is_given_its_state_its_batch_and_what_is_frozen(name, compiled):
    program = compiled[name]
    beside = program["memory"]["argument"] - program["tiled"]["state"]
    expected = sum(program["tiled"].values()) - program["tiled"]["state"]
    # What the method does not read of the batch is not given.
    assert program["tiled"].get("frozen", 0) < beside <= expected


# Of all devices, whole.
PARAMETERS = dict.fromkeys(STATES, ONE) | {
    "train": TWO,
    "windows": TWO + 4 * NORM,
    "sequence": TWO + 4 * 192 * 128,
    "experts": ONE + 9 * 192 * 160 + ROUTER,
    "reward": REWARD,
    "critic": ONE + REWARD,
    "members": 4 * ONE,
}


@pytest.mark.parametrize("name", STATES)
def test_an_update_plans_no_more_than_gradients_new_parameters_and_two_masks(name, compiled):
    # Of a row's pairs of tokens there is a mask for each direction, of 4 bytes, in whole blocks.
    # The scores of every head and layer would be beside that, where they were kept.
    tokens = -(-compiled[name]["row"] // 384) * 384
    most = 2 * 4 * PARAMETERS[name] + 2 * 4 * tokens**2
    assert compiled[name]["memory"]["temp"] <= most


@pytest.mark.parametrize("name", STATES)
def test_an_update_never_holds_the_scores_of_a_row(name, compiled):
    program = compiled[name]
    block = 384 if name == "shipped block" else 128
    row = program["row"], -(-program["row"] // block) * block  # as it lies, and in whole blocks
    assert any(size in row for shape in sizes(program, "f32", "bf16") for size in shape)
    for shape in sizes(program, "f32", "bf16"):
        assert sum(size in row for size in shape) < 2, shape


def test_an_update_holds_the_logits_of_one_chunk_at_a_time(compiled):
    train = compiled["train"]
    held = [
        shape
        for shape in sizes(train, "f32")
        if shape[-1] in (VOCABULARY, VOCABULARY // 2)
        and not {WIDTH, WIDTH // 2}.intersection(shape)  # the embedding, and its gradient
    ]
    tokens = max(math.prod(shape[:-1]) for shape in held)
    assert 0 < tokens <= 32  # a device has one shard
    assert train["scored"] > 4 * tokens


def test_a_sampler_computes_its_prompts_by_the_kernel(compiled):
    assert compiled["sample"]["kernels"] == ["fwd"]
    assert compiled["sample"]["calls"] == 1


def test_an_engine_computes_prompts_by_the_kernel_and_decodes_without(compiled):
    kernels = {n: compiled[f"engine: {n}"]["kernels"] for n in ("unstack", "start", "advance")}
    assert kernels == {"unstack": [], "start": ["fwd"], "advance": []}


def test_a_stretch_of_decoding_writes_into_the_cache_it_is_given(compiled):
    advance = compiled["engine: advance"]
    # Weights in bfloat16, but for the last norm.
    assert advance["given"]["weights"] == 2 * (TWO - NORM) + 4 * NORM
    # Of 8 slots of 2 responses: keys and values of 2 layers and 2 heads of 64 for 120 places of a
    # prompt and 128 of each response, and states, in bfloat16.
    cache = 2 * (2 * 2 * 2 * 64 * 8 * (120 + 2 * 128) + 16 * 192)
    # Up to 256 tokens and their log-probabilities; length, limit and place; a key; the end. Of a
    # slot the prompt's length; and where the ring is written.
    numbers = 16 * (256 * 8 + 3 * 4 + 8 + 1) + 8 * 4 + 4
    assert advance["given"]["state"] == cache + numbers
    assert advance["memory"]["alias"] >= cache + numbers


def test_a_mesh_may_split_the_axes_of_the_slice_that_it_is_laid_on(compiled):
    # Of 4 x 4 x 4, of which no product is 32.
    assert compiled["slices"] == {"data": 2, "fsdp": 32, "sequence": 1, "tensor": 1}
