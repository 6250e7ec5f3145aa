"""Flash kernels give what the masked form gives, and serve where they can.

Splash runs interpreted here, and cuDNN's is replaced by XLA's of the same signature: what is
tested is what the kernels are told. That they compile for a TPU: test_tpu_compiles.py.
"""

import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from alignax.core.errors import BadInput
from alignax.models import flash, splash
from alignax.models.attention import packed_attention
from alignax.models.config import DecoderConfig, LayerKind
from alignax.models.transformer import Decoder
from alignax.train import sharding
from tests.models.rows import layout

LENGTH = 260  # three blocks of 128, the last of them mostly beyond the row
SIZES = [  # of each row's groups: the prompt, then its responses
    [(90, 40, 0, 70), (30, 25)],
    [(5, 3, 140, 60), (20, 1, 2, 3, 1, 5, 4)],
    [(200, 11, 12, 13, 14)],
    [],
]
ROWS = layout([[([1] * p, [[1] * r for r in rest]) for p, *rest in row] for row in SIZES], LENGTH)
WHERE = ROWS.group, ROWS.response, ROWS.position


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(splash, "LONGEST_BLOCK", 128)


@functools.cache
def arrays():
    """Query, key, value, and the weights of the attended values in a sum; none on padding."""
    keys = jax.random.split(jax.random.key(0), 4)
    heads = (4, 2, 2, 4)
    made = [jax.random.normal(key, (4, LENGTH, h, 8)) for key, h in zip(keys, heads, strict=True)]
    return *made[:3], made[3] * (ROWS.group >= 0)[..., None, None]


def value_and_gradients(attend, window, shard=lambda x: x):
    def weighted(query, key, value, weights, window):
        out = jnp.where(weights != 0, attend(query, key, value, window), 0)
        return (out * weights).sum(), out

    run = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True))
    return run(*map(shard, arrays()), window)


def assert_same(found, window, softcap=None):
    def masked(query, key, value, window):
        return packed_attention(query, key, value, *WHERE, window=window, softcap=softcap)

    expected = value_and_gradients(masked, window)
    (_, out), gradients = found
    np.testing.assert_allclose(out, expected[0][1], rtol=0, atol=1e-5)
    for x, y in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("windows", "softcap"), [({30}, None), ({None, 30}, 2.0)], ids=["one window", "two, capped"]
)
def test_splash_gives_what_the_masked_form_gives(windows, softcap):
    attend = flash.over_rows("splash", *WHERE, windows=windows, softcap=softcap)
    assert_same(value_and_gradients(attend, jnp.int32(30)), jnp.int32(30), softcap)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_splash_gives_the_same_to_the_bit_for_rows_end_to_end_and_one_by_one(softcap, monkeypatch):
    attend = flash.over_rows("splash", *WHERE, windows={30}, softcap=softcap)
    at_once = value_and_gradients(attend, None)
    pairs = 4 * 384**2  # of four rows of three blocks, 4 bytes each
    monkeypatch.setattr(splash, "ROOM", 4 * pairs - 1)
    in_turn = value_and_gradients(attend, None)
    jax.tree.map(np.testing.assert_array_equal, at_once, in_turn)


@pytest.mark.parametrize("kernel", ["splash", "cudnn"])
def test_each_device_serves_its_own_rows_and_heads(kernel, monkeypatch):
    cudnn_by_xla(monkeypatch)
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
    split = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), None, "tensor"))
    with jax.set_mesh(mesh):
        attend = flash.over_rows(kernel, *WHERE, windows={None})
        found = value_and_gradients(attend, None, lambda x: jax.device_put(x, split))
    assert all(x.sharding.is_equivalent_to(split, 4) for x in found[1])
    assert_same(jax.device_get(found), None)


def test_splash_visits_no_block_of_a_row_in_which_nothing_is_seen():
    # A block each: a prompt, two responses to it, another prompt. Seen in part (1) is what is
    # causal; seen whole (2) is the prompt by its responses.
    rows = layout([[([1] * 128, [[1] * 128, [1] * 128]), ([1] * 128, [])]], 512)
    seen = flash.visible_tokens(rows.group, rows.response, rows.position, None)
    kernel = splash.prepare(seen, softcap=None, interpret=True)
    expected = [[1, 0, 0, 0], [2, 1, 0, 0], [2, 0, 1, 0], [0, 0, 0, 1]]
    for info in (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info):
        np.testing.assert_array_equal(info.block_mask[0, 0], expected)


def cudnn_by_xla(monkeypatch):
    """Has XLA's attention stand in for cuDNN's, whose arguments it takes."""
    attention = jax.nn.dot_product_attention

    def stand_in(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        return attention(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)


@pytest.mark.parametrize("windows", [{30}, {None, 30}], ids=["one window", "two"])
def test_cudnn_is_told_what_the_masked_form_masks(windows, monkeypatch):
    cudnn_by_xla(monkeypatch)
    attend = flash.over_rows("cudnn", *WHERE, windows=windows)
    assert_same(value_and_gradients(attend, jnp.int32(30)), jnp.int32(30))


EVERYTHING = LayerKind()


def model(kernel, *, kinds=(EVERYTHING,)):
    shape = {"vocab_size": 50, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8}
    config = DecoderConfig(**shape, layers=len(kinds), mlp_width=24, kinds=kinds)
    return Decoder(config=config, dtype="bfloat16", attention=kernel)


def gradient_of(decoder):
    def total(params):
        return decoder.packed(params, ROWS).astype(jnp.float32).sum()

    return jax.jit(jax.grad(total)).trace(decoder.abstract())


def test_a_decoder_lowers_to_cudnn_forward_and_backward(monkeypatch):
    monkeypatch.setattr(flash, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)  # there is none on a CPU
    text = gradient_of(model("cudnn")).lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if "stablehlo.custom_call @__cudnn" in line]
    assert len(calls) == 2  # once each for all layers, which are scanned
    for call, name in zip(calls, ("Softmax", "SoftmaxBackward"), strict=True):
        assert f"@__cudnn$fmhaScaleBias{name}(" in call
        assert r"mask_type\22: \22CAUSAL" in call
        assert "tensor<4x1x260x260xbf16>" in call  # one mask for all heads


def test_windows_that_differ_do_not_make_the_backward_pass_run_the_forward_kernel():
    kinds = EVERYTHING, LayerKind(window=30)
    # The compiler leaves out kernels of which nothing is used, and a trace does not.
    text = gradient_of(model("splash", kinds=kinds)).lower().compile().as_text()
    names = set(re.findall(r'op_name="([^"]*/splash_mha_\w+)', text))
    backward = {name.split("/")[-1] for name in names if "transpose(" in name}
    assert backward == {"splash_mha_dq_no_residuals", "splash_mha_dkv_no_residuals"}
    assert any(name.endswith("/splash_mha_fwd_residuals") for name in names)


FITS = {"dtype": "bfloat16", "head_dim": 64, "tokens": 256, "softcap": None}


@pytest.mark.parametrize(
    ("device", "kernel"),
    [
        ("TPU v5 lite", "splash"),
        ("NVIDIA H100 80GB HBM3", "cudnn"),
        ("AMD Instinct MI300X", "xla"),
        ("cpu", "xla"),
    ],
)
def test_the_kernel_is_that_of_the_device(device, kernel, monkeypatch):
    monkeypatch.setattr(flash, "device_kind", lambda: device)
    assert flash.choose("auto", **FITS) == kernel
    assert flash.choose("xla", **FITS) == "xla"


def test_a_mesh_says_which_device_counts():
    with jax.set_mesh(sharding.make_mesh(sharding.Mesh())):
        assert flash.choose("auto", **FITS) == "xla"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dtype": "float32"}, "dtype float32"),
        ({"head_dim": 256}, "a head size of 256"),
        ({"head_dim": 20, "softcap": 50.0}, "a head size of 20, capped scores"),
        ({"tokens": 257}, "rows of 257 tokens"),
    ],
    ids=str,
)
def test_where_cudnn_cannot_serve_xla_does_and_the_log_says_so_once(
    changes, named, monkeypatch, caplog
):
    monkeypatch.setattr(flash, "device_kind", lambda: "NVIDIA A100-SXM4-80GB")
    flash._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="alignax"):
        for _ in range(2):
            assert flash.choose("auto", **FITS | changes) == "xla"
    assert caplog.messages == [f"attention by XLA: cuDNN's does not take {named}"]
    with pytest.raises(BadInput) as error:
        flash.choose("cudnn", **FITS | changes)
    assert str(error.value) == (
        "model.attention: expected bfloat16, a head size of 8 to 128 in steps of 8, rows of an "
        "even number of tokens, no cap on scores, compute capability 8.0 or more; "
        f'got {named}.\n    Leave it at "auto".'
    )


@pytest.mark.parametrize("device", ["cpu", "TPU v5 lite", "AMD Instinct MI300X"])
def test_cudnn_by_name_asks_for_a_gpu_that_has_it(device, monkeypatch):
    monkeypatch.setattr(flash, "device_kind", lambda: device)
    with pytest.raises(BadInput, match=f"model.attention: expected an NVIDIA GPU; got {device}"):
        flash.choose("cudnn", **FITS)
