"""A frozen base in few bits: how near its numbers are, and that what is computed is of them."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.models import quantised
from alignax.models.kernels import plain
from alignax.models.lora import Adapter, LoRA
from alignax.models.quantised import Quantised, hold, stored_bytes
from tests.models.test_lora import BASE, DECODER, hidden, made, rows

# QLoRA, appendix E, to the digits printed there.
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0]  # fmt: skip
few_bits = pytest.mark.parametrize("held", ["int8", "nf4"])


def copy(base=BASE):
    return jax.tree.map(lambda x: x, base)


def held_base(held):
    return hold(copy(), Adapter(decoder=DECODER, settings=LoRA(rank=4)), held)


def kernels(base):
    """Each matrix of the blocks as [layers, inputs, outputs], by its name."""
    found = {}
    for part in ("attention", "mlp"):
        for name, layer in plain(base)["layers"][part].items():
            kernel = np.asarray(layer["kernel"], np.float64)
            inputs = kernel.shape[1] * (kernel.shape[2] if name == "out" else 1)
            found[name] = kernel.reshape(3, inputs, -1)
    return found


def test_numbers_of_8_bits_are_within_half_a_step_of_the_largest_of_their_output():
    before, after = kernels(BASE), kernels(held_base("int8"))
    for name, x in before.items():
        step = np.abs(x).max(axis=1, keepdims=True) / 127
        assert (np.abs(after[name] - x) <= 0.5 * step * (1 + 1e-5)).all(), name


def test_numbers_of_4_bits_are_the_nearest_of_sixteen_times_the_largest_of_their_block():
    """Blocks are 32 inputs, or 48 of the MLP's way down, or 8 of a head."""
    before, after = kernels(BASE), kernels(held_base("nf4"))
    for name, x in before.items():
        size = {"out": 8, "down": 48}.get(name, 32)
        x, y = (z.reshape(3, -1, size, z.shape[-1]) for z in (x, after[name]))
        largest = np.abs(x).max(axis=2, keepdims=True)
        nearest = np.abs(x[..., None] / largest[..., None] - NF4).argmin(axis=-1)
        np.testing.assert_allclose(y, np.array(NF4)[nearest] * largest, rtol=1e-5, atol=1e-7)


@few_bits
def test_only_the_matrices_of_the_blocks_are_turned(held):
    base = held_base(held)
    assert isinstance(base["layers"]["mlp"]["up"]["kernel"], Quantised)
    assert base["embed"] is BASE["embed"]
    assert (
        base["layers"]["attention"]["query"]["bias"] is BASE["layers"]["attention"]["query"]["bias"]
    )
    jax.tree.map(lambda x, y: np.testing.assert_equal(x.shape, y.shape), plain(base), BASE)


@few_bits
@pytest.mark.parametrize("dora", [False, True])
def test_policy_and_gradients_are_those_of_the_base_as_it_is_held(held, dora):
    """With an adapter on some layers and none on others."""
    adapter, params = made(LoRA(rank=4, alpha=8.0, dora=dora, targets=("query", "down")))
    base = held_base(held)
    found, expected = (hidden(adapter, params, base=x) for x in (base, plain(base)))
    np.testing.assert_allclose(found, expected, atol=1e-5)

    @jax.jit
    @jax.grad
    def gradient(params, base):
        return jnp.square(DECODER.packed(adapter.attach(base, params), rows())).sum()

    found, expected = gradient(params, base), gradient(params, plain(base))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max(), rtol=1e-4)


@few_bits
def test_decoding_is_of_the_base_as_it_is_held(held):
    base = held_base(held)
    unstacked, expected = (jax.jit(DECODER.unstack)(x) for x in (base, plain(base)))
    jax.tree.map(np.testing.assert_array_equal, unstacked, expected)


def test_a_base_of_few_bits_takes_few_bytes():
    """By hand, of a layer: query and out 32 x 32, key and value 32 x 16, three of 32 x 48."""
    numbers = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    others = stored_bytes(BASE) - 3 * 4 * numbers
    # A scale of four bytes for each output: 32, 16, 16, 32, 48, 48, 32.
    assert stored_bytes(held_base("int8")) == others + 3 * (numbers + 4 * 224)
    # One for each block: out has four heads, all else has one block.
    assert stored_bytes(held_base("nf4")) == others + 3 * (numbers // 2 + 4 * (224 + 3 * 32))


def test_on_a_device_two_numbers_of_4_bits_share_a_byte():
    base = held_base("nf4")
    array = base["layers"]["mlp"]["up"]["kernel"].array
    compiled = jax.jit(lambda x: x.sum(dtype=jnp.int32)).lower(array.qvalue).compile()
    assert compiled.memory_analysis().argument_size_in_bytes == array.qvalue.size // 2


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    def no_module(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", no_module)
    with pytest.raises(
        BadInput, match=r"(?s)adapter\.base: .*qwix.*-e '\.\[quantised\]' in the clone"
    ):
        held_base("nf4")


def test_a_base_held_as_it_is_is_not_touched():
    base = copy()
    assert quantised.hold(base, Adapter(decoder=DECODER, settings=LoRA()), "bfloat16") is base


@few_bits
def test_layers_that_are_written_out_have_the_same_base_and_the_same_dropout(held):
    adapter, params = made(LoRA(rank=4, alpha=8.0, dropout=0.5))
    base, written = held_base(held), dataclasses.replace(DECODER, scan_layers=False)

    def found(decoder):
        def total(params):
            given = adapter.attach(base, params, jax.random.key(3))
            states = decoder.packed(given, rows())
            return jnp.sum(states * jnp.cos(jnp.arange(states.size).reshape(states.shape))), states

        return jax.jit(jax.grad(total, has_aux=True))(params)

    (gradient, scanned), (same, one_by_one) = found(DECODER), found(written)
    np.testing.assert_allclose(one_by_one, scanned, atol=2e-5)
    for x, y in zip(jax.tree.leaves(same), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max(), rtol=1e-4)


@few_bits
def test_products_of_a_base_of_few_bits_and_an_adapter_are_joined_as_they_are(held):
    adapter, params = made(LoRA(rank=4, alpha=8.0))
    given = adapter.attach(held_base(held), params)
    joined, apart = (DECODER.unstack(given, joined=x)["layers"][1] for x in (True, False))
    parts = [apart["attention"][name]["kernel"] for name in ("query", "key", "value")]
    found = joined["attention"]["joined"]["kernel"]
    np.testing.assert_array_equal(found, np.concatenate(parts, axis=1))
