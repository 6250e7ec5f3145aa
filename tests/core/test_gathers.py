"""Rows taken by index: the gradient that GPUs get is the plain one, and its order is fixed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignax.core import axes, gathers
from alignax.data.pipeline import build_step
from alignax.data.plan import make_plan
from alignax.methods import DPO
from alignax.models import cudnn, flash
from alignax.models.outputs import outputs
from alignax.train.step import init_state, make_step
from tests.tiny_batch import CONFIG, decoder, params, random_table

HOPPER = "NVIDIA H100 80GB HBM3"
SGD = optax.sgd(0.1)
TABLE = random_table(8, responses=2)
PLAN = make_plan(TABLE.lengths, batch_size=8, num_steps=1, align=8)


@pytest.mark.parametrize(
    "index", [[3, 0, 3, 3, 5, 0], [2], [1, 1, 1, 1, 1, 1, 1], [5, 4, 3, 2, 1, 0]], ids=str
)
def test_rows_of_one_index_are_summed(index):
    rows = np.random.default_rng(0).normal(size=(len(index), 3)).astype(np.float32)
    expected = np.zeros((6, 3))
    np.add.at(expected, index, rows.astype(np.float64))
    found = gathers.summed_rows(jnp.array(rows), jnp.array(index), 6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_many_small_rows_of_bfloat16_are_summed_in_float32():
    # 1 and 1/256 is 1 again in bfloat16, however often.
    rows = jnp.concatenate([jnp.ones((1, 1)), jnp.full((256, 1), 2.0**-8)]).astype(jnp.bfloat16)
    found = gathers.summed_rows(rows, jnp.zeros(257, int), 1)
    assert float(found[0, 0]) == 2.0


def update(model):
    """Of DPO, as a function of state and arrays, and both."""
    batch, layout = build_step(TABLE, PLAN, 0, {})
    batch = batch._replace(ref_logprobs=np.zeros(batch.mask.shape, np.float32))
    step = make_step(DPO(beta=0.5), lambda *arrays: outputs(model, *arrays), SGD)
    return step, init_state(params(), SGD), batch, layout


def test_an_update_by_sorted_rows_is_the_plain_one(monkeypatch):
    step, *arguments = update(decoder())
    expected = jax.jit(step)(*arguments)
    monkeypatch.setattr(axes, "device_kind", lambda: HOPPER)
    found = jax.jit(lambda *arguments: step(*arguments))(*arguments)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), found, expected)


def test_an_update_on_a_gpu_adds_nothing_up_in_an_order_that_varies(monkeypatch):
    monkeypatch.setattr(axes, "device_kind", lambda: HOPPER)
    monkeypatch.setattr(flash, "device_kind", lambda: HOPPER)
    monkeypatch.setattr(cudnn, "served", lambda: True)
    monkeypatch.setattr(cudnn, "fits", lambda shape, segments: True)
    step, *arguments = update(decoder(dtype="bfloat16", remat="elementwise"))
    text = jax.jit(step).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    calls = 4 * CONFIG.layers  # of each piece and layer, forward and backward
    assert len(re.findall("custom_call @__cudnn", text)) == calls
    scatters = re.findall(r'"stablehlo\.scatter".*?unique_indices = (\w+)', text)
    assert scatters
    assert set(scatters) == {"true"}
