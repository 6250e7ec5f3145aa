"""Layers that are written out compute what a scan over them does."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core import axes
from alignax.core.types import Layout
from alignax.models import cudnn, flash
from alignax.models.config import LayerKind
from alignax.models.rotary import Rope
from alignax.models.stack import run
from alignax.models.transformer import Decoder
from tests.tiny_batch import CONFIG

LAYERS = 3
WINDOW, SLOW = LayerKind(window=3), LayerKind(rope=Rope(theta=1e6))
KINDS = {
    "one": (LayerKind(),),
    "windows": (LayerKind(), WINDOW, LayerKind()),
    "windows and ropes": (WINDOW, SLOW, WINDOW),  # as Gemma 3
    "one without a rope": (SLOW, LayerKind(rope=None), SLOW),
}


def layout(tokens=12):
    group = jnp.array([[0] * 7 + [1] * 5, [2] * 10 + [-1] * 2])
    response = jnp.array([[0, 0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 1], [0] * 4 + [1] * 6 + [0] * 2])
    position = jnp.array([[0, 1, 2, 3, 4, 3, 4, 0, 1, 2, 3, 4], [*range(10), 0, 0]])
    nothing = jnp.zeros((2, 0), jnp.int32)
    ids = jnp.arange(2 * tokens).reshape(2, tokens) % CONFIG.vocab_size
    return Layout(ids, group, response, position, nothing, nothing, nothing)


@pytest.mark.parametrize("remat", ["none", "elementwise", "block"])
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_states_and_gradients_are_those_of_a_scan(kinds, remat):
    config = dataclasses.replace(CONFIG, layers=LAYERS, kinds=kinds)
    params = Decoder(config=config).init(jax.random.key(0))
    weight = jnp.where(layout().group[..., None] >= 0, 1.0, 0.0)

    def found(scan_layers):
        model = Decoder(config=config, remat=remat, scan_layers=scan_layers)

        def total(params):
            hidden = model.packed(params, layout()) * weight
            return jnp.sum(hidden * jnp.cos(jnp.arange(hidden.size).reshape(hidden.shape))), hidden

        return jax.jit(jax.grad(total, has_aux=True))(params)

    (scanned, states), (written, others) = found(True), found(False)
    np.testing.assert_allclose(others, states, atol=1e-5)
    for x, y in zip(jax.tree.leaves(written), jax.tree.leaves(scanned), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize("scanned", [True, False])
def test_what_layers_keep_is_stacked(scanned):
    layer = lambda x, block, angle, window: (x + block, {"before": x})  # noqa: E731
    found, kept = run(
        layer,
        jnp.float32(1.0),
        jnp.array([1.0, 2.0, 4.0]),
        (LayerKind(),),
        {LayerKind().rope: None},
        layers=3,
        scanned=scanned,
        remat="none",
    )
    assert float(found) == 8.0
    np.testing.assert_array_equal(kept["before"], [1.0, 2.0, 4.0])


def calls_backward(config):
    """The numbers that cuDNN's calls of a backward pass have, of each piece and layer."""
    model = Decoder(config=config, dtype="bfloat16")
    segments = 2 * 3 * 2

    def total(params):
        return model.packed(params, layout(), segments=segments).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total)).trace(model.abstract())
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"@__cudnn\$fmhaSoftmaxBackward\(.*", text)
    return [int(re.search(r"\\22seed\\22: (\d+)", call)[1]) for call in calls]


def test_on_one_gpu_every_call_of_cudnn_has_a_number_of_its_own(monkeypatch):
    """XLA, asked for the same bits, finds the kernels of only the first of calls that are alike."""
    for module in (axes, flash):
        monkeypatch.setattr(module, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(cudnn, "served", lambda: True)
    monkeypatch.setattr(cudnn, "fits", lambda shape, segments: True)
    config = dataclasses.replace(CONFIG, layers=LAYERS)
    policy = calls_backward(config)
    critic = calls_backward(dataclasses.replace(config, num_scores=1))
    assert len(policy) == len(critic) == 2 * LAYERS  # both pieces of each layer, which differ
    assert len(set(policy)) == len(set(critic)) == LAYERS
    assert not set(policy) & set(critic)  # they are trained in one program
