"""Shapes that only broadcast are refused, and what is right runs on a mesh.

In a process of its own: the suite's own checks of annotations would come first.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import functools, json, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from alignax import losses
from tests import test_losses as cases

key, b = jax.random.key(0), 4
given = {name: cases.stacked(name, (b,)) for name in cases.ARRAYS}
calls = {name: (cases.eager(name), given[name]) for name in cases.ARRAYS}
sample = functools.partial(losses.rejection_sample, num_samples=2, beta=0.5)
calls["rejection_sample"] = jax.vmap(sample), [jax.random.split(key, b), given["rrhf"][0]]

def said(function, *arrays, **keywords):
    try:
        jax.block_until_ready(function(*arrays, **keywords))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""

mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
split = NamedSharding(mesh, PartitionSpec("data"))
explicit, mapped = {}, {}
for name, (call, arrays) in calls.items():
    arrays = jax.device_put(arrays, split)
    with jax.set_mesh(mesh):
        explicit[name] = said(call, *arrays), said(jax.jit(call), *arrays)
    spec = PartitionSpec("data")
    each = jax.shard_map(call, mesh=mesh, in_specs=spec, out_specs=spec)
    mapped[name] = said(jax.jit(each), *arrays)

ones = lambda *shape: jnp.ones(shape, jnp.float32)
wrong = {
    "transposed": said(losses.dpo, ones(2, 4), ones(2, 4), beta=0.1),
    "vector": said(losses.simpo, ones(3), beta=2.0, gamma=1.0),
    "tokens": said(losses.ipo, ones(3, 2, 5), ones(3, 2, 5), tau=0.1),
    "reference": said(losses.hinge, ones(3, 2), ones(2), beta=0.1),
    "margin": said(losses.bradley_terry, ones(3, 2), ones(3, 1)),
    "scores": said(losses.rrhf, ones(3, 4), ones(4)),
    "valid": said(losses.pro, ones(3, 4), ones(3, 4), ones(3, 1) > 0),
    "labels": said(losses.kto, ones(3), ones(3), ones(3, 1), 0.0, beta=0.1),
    "mask": said(losses.nll, ones(3, 4), ones(3) > 0),
    "advantages": said(losses.policy_gradient, ones(3, 4), ones(4), ones(3, 4) > 0),
    "old": said(losses.clipped_policy_gradient, ones(3, 4), ones(3), ones(3), ones(3, 4) > 0,
                clip_low=0.2, clip_high=0.2),
    "greedy": said(losses.greedy_advantage, ones(3), ones(3, 1)),
    "kind": said(losses.kl_estimate, ones(3), ones(3), kind="k4"),
}
labels = losses.kto(ones(2), 2 * ones(2), jnp.array([1.0, -1.0]), 0.0, beta=0.5).tolist()
column = losses.policy_gradient(ones(3, 4), ones(3, 1), ones(3, 4) > 0).tolist()
json.dump([explicit, mapped, wrong, labels, column], sys.stdout)
"""


@pytest.fixture(scope="module")
def found():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_loss_runs_on_arrays_that_a_mesh_splits(found):
    explicit, _, *_ = found
    assert len(explicit) == 26
    assert [(name, said) for name, said in explicit.items() if any(said)] == []


def test_every_loss_runs_within_shard_map(found):
    _, mapped, *_ = found
    assert [(name, said) for name, said in mapped.items() if said] == []


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("transposed", "dpo: expected logprobs and ref_logprobs of one shape [..., 2], chosen "
                       "first; got [2, 4] and [2, 4]"),
        ("vector", "simpo: expected logprobs [..., 2], chosen first; got [3]"),
        ("tokens", "got [3, 2, 5] and [3, 2, 5]"),
        ("reference", "hinge: expected logprobs and ref_logprobs of one shape [..., 2], chosen "
                      "first; got [3, 2] and [2]"),
        ("margin", "bradley_terry: expected pairs and margin, of one shape; got [3] "
                   "and [3, 1]"),
        ("scores", "rrhf: expected logprobs and scores, of one shape; got [3, 4] and [4]"),
        ("valid", "pro: expected logprobs and scores and valid, of one shape; got [3, 4] and "
                  "[3, 4] and [3, 1]"),
        ("labels", "kto: expected logprobs and ref_logprobs and desirable and kl, of one shape; "
                   "got [3] and [3] and [3, 1] and []"),
        ("mask", "nll: expected logprobs and mask, of one shape; got [3, 4] and [3]"),
        ("advantages", "policy_gradient: expected advantages of one number a response, [3], or "
                       "one a token, [3, 4]; got [4]"),
        ("old", "clipped_policy_gradient: expected logprobs and old_logprobs and mask, of one "
                "shape; got [3, 4] and [3] and [3, 4]"),
        ("greedy", "greedy_advantage: expected rewards and greedy, of one shape; got [3] and "
                   "[3, 1]"),
        ("kind", "kl_estimate: expected a kind of estimate: k1, k2, k3, abs; got 'k4'"),
    ],
)  # fmt: skip
def test_what_only_broadcasts_is_refused(found, case, message):
    said = found[2][case]
    assert said.startswith("BadInput: ")
    assert message in said


def test_a_label_below_zero_is_undesirable(found):
    # sigmoid(-0.5 (1 - 2)) and sigmoid(0.5 (1 - 2)), worked by hand.
    assert found[3] == pytest.approx([0.622459, 0.377541], rel=1e-5)


def test_advantages_may_be_a_column(found):
    assert found[4] == [[-1.0] * 4] * 3
