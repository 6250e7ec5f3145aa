"""What a TPU would run, compiled for eight of them without one."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu, which has wheels for Linux on x86-64 only", allow_module_level=True)

VOCABULARY = 1024  # split over two devices, or whole
WIDTH = 192


@pytest.fixture(scope="module")
def compiled():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",  # those of the tests are for CPUs
        "TPU_SKIP_MDS_QUERY": "1",  # asks no server which machine this is
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs on a device that others could hold
    }
    command = [sys.executable, "-m", "tests.models.compile_for_tpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def sizes(program, *kinds):
    return [shape for kind, shape in program["shapes"] if kind in kinds]


def test_an_update_runs_the_kernel_forward_and_backward_once_for_all_layers(compiled):
    assert compiled["train"]["kernels"] == ["dkv", "dq", "fwd"]
    assert compiled["train"]["calls"] == 3


def test_an_update_never_holds_the_scores_of_a_row(compiled):
    train = compiled["train"]
    row = train["row"], -(-train["row"] // 128) * 128  # as it lies, and in whole blocks
    assert any(size in row for shape in sizes(train, "f32", "bf16") for size in shape)
    for shape in sizes(train, "f32", "bf16"):
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


def test_a_mesh_may_split_the_axes_of_the_slice_that_it_is_laid_on(compiled):
    # Of 4 x 4 x 4, of which no product is 32.
    assert compiled["slices"] == {"data": 2, "fsdp": 32, "sequence": 1, "tensor": 1}
