"""Low-rank adapters as functions: what they compute, what of them is trained, where they lie."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.models.config import DecoderConfig, Experts
from alignax.models.kernels import at, plain
from alignax.models.lora import Adapted, Adapter, LoRA
from alignax.models.transformer import Decoder
from alignax.train import sharding
from alignax.train.optim import decay_mask
from tests.models.rows import layout

SHAPE = {"vocab_size": 64, "width": 32, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8,
         "mlp_width": 48, "tied": True, "init_scale": 0.2, "qkv_bias": True,
         "out_bias": True}  # fmt: skip
DECODER = Decoder(config=DecoderConfig(**SHAPE))
BASE = DECODER.init(jax.random.key(0))
ALIASES = {"attention/query": "self_attn.q_proj", "mlp/down": "mlp.down_proj"}
KINDS = {"lora": LoRA(rank=4, alpha=8.0), "rslora": LoRA(rank=4, alpha=4.0, rslora=True),
         "dora": LoRA(rank=4, alpha=8.0, dora=True)}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(settings, decoder=DECODER):
    """An adapter, and parameters of it that change something."""
    adapter = Adapter(decoder=decoder, settings=settings, aliases=ALIASES)
    params = adapter.init(jax.random.key(1), BASE)
    keys = iter(jax.random.split(jax.random.key(2), 99))

    def moved(x):
        return x + 0.1 * jax.random.normal(next(keys), x.shape)

    return adapter, jax.tree.map(moved, params)


def rows():
    draw = np.random.default_rng(0).integers(0, 64, (3, 9)).tolist()
    return layout([[(draw[0], draw[1:])]], 32)


def hidden(adapter, params, key=None, base=BASE):
    run = jax.jit(lambda params, base: adapter.decoder.packed(
        adapter.attach(base, params, key), rows()))  # fmt: skip
    return run(params, base)


# --- By hand: inputs [1, 2], W = [[3, 0], [4, 1]], A = [[1], [0]], B = [[0, 2]]

X, W = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 0.0], [4.0, 1.0]])
A, B = jnp.array([[1.0], [0.0]]), jnp.array([[0.0, 2.0]])


def by_hand(**changes):
    fields = {"kernel": W, "a": A, "b": B, "magnitude": None, "key": None, "contract": 1,
              "scale": 0.5, "dropout": 0.0}  # fmt: skip
    return Adapted(**(fields | changes))


def product(axes, x, kernel):
    return jnp.tensordot(x, kernel, axes)


def test_an_update_is_scale_times_a_times_b():
    # x W = [11, 2]; x A = 1, so 0.5 * 1 * [0, 2] = [0, 1] is added. W + 0.5 A B = [[3, 1], [4, 1]].
    np.testing.assert_allclose(by_hand().times(X, 1, product), [[11.0, 3.0]])
    np.testing.assert_allclose(by_hand().whole(), [[3.0, 1.0], [4.0, 1.0]])


def test_dora_gives_every_output_its_magnitude():
    # The columns of W + 0.5 A B are (3, 4) and (1, 1), of norm 5 and sqrt 2; of magnitudes 10
    # and 1 they are (6, 8) and (0.7071, 0.7071). x times them: 6 + 16 = 22, and 3 * 0.7071.
    kernel = by_hand(magnitude=jnp.array([10.0, 1.0]))
    half = math.sqrt(0.5)
    np.testing.assert_allclose(kernel.norm(), [5.0, math.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(kernel.whole(), [[6.0, half], [8.0, half]], rtol=1e-6)
    np.testing.assert_allclose(kernel.times(X, 1, product), [[22.0, 3 * half]], rtol=1e-6)


def test_the_scale_is_alpha_over_the_rank_or_over_its_root():
    assert LoRA(rank=16, alpha=32.0).scale == 2.0
    assert LoRA(rank=16, alpha=32.0, rslora=True).scale == 8.0


def test_dropout_scales_what_it_keeps():
    # Of inputs 1, every product x A is a multiple of 1 / (1 - 0.75) = 4, and their mean is 1.
    x = jnp.ones((20_000, 2))
    kernel = by_hand(kernel=jnp.zeros((2, 2)), b=jnp.array([[0.0, 1.0]]), scale=1.0, dropout=0.75,
                     key=jax.random.key(0))  # fmt: skip
    found = np.asarray(kernel.times(x, 1, product))[:, 1]
    assert set(np.unique(found)) == {0.0, 4.0}
    # Deviation of the mean: sqrt(3 / 20,000) = 0.012.
    assert found.mean() == pytest.approx(1.0, abs=0.06)


# --- Of a whole decoder


@every_kind
def test_a_new_adapter_changes_nothing_and_a_moved_one_does(kind):
    adapter, moved = made(KINDS[kind])
    new = adapter.init(jax.random.key(1), BASE)
    before = jax.jit(DECODER.packed)(BASE, rows())
    # DoRA divides a norm by itself.
    np.testing.assert_allclose(hidden(adapter, new), before, atol=0 if kind != "dora" else 1e-5)
    assert np.abs(hidden(adapter, moved) - before).max() > 0.1


@every_kind
def test_the_merged_model_computes_what_base_and_adapter_do(kind):
    adapter, params = made(KINDS[kind])
    merged = plain(adapter.attach(BASE, params))
    assert jax.tree.structure(merged) == jax.tree.structure(BASE)
    found = jax.jit(DECODER.packed)(merged, rows())
    np.testing.assert_allclose(found, hidden(adapter, params), atol=2e-5, rtol=1e-5)


@every_kind
def test_decoding_computes_what_packed_rows_do(kind):
    """Prefill has the adapter beside the base, and extend has it merged."""
    adapter, params = made(KINDS[kind])
    whole = adapter.attach(BASE, params)
    prompt = rows().tokens[:, :9]
    last, cache = DECODER.prefill(whole, prompt, jnp.array([9]), num_responses=2, max_response=9)
    more = rows().tokens[:, 9:27].reshape(1, 2, 9)
    states, _ = jax.jit(DECODER.extend)(whole, cache, more)
    found = np.concatenate([last[:, None], states.reshape(1, 18, -1)], axis=1)
    np.testing.assert_allclose(found, hidden(adapter, params)[:, 8:27], atol=3e-5, rtol=1e-5)


@every_kind
def test_unmerging_gives_the_base_again_to_rounding(kind):
    adapter, params = made(KINDS[kind])
    merged = plain(adapter.attach(BASE, params))
    norms = adapter.norms(BASE, params) if kind == "dora" else None
    again = adapter.unmerge(merged, params, norms)
    for path, x in jax.tree_util.tree_leaves_with_path(again):
        expected = functools.reduce(lambda tree, part: tree[part.key], path, BASE)
        moved = np.abs(functools.reduce(lambda t, part: t[part.key], path, merged) - expected).max()
        is_kernel = path[-1].key == "kernel"
        assert (moved > 1e-3) == is_kernel
        # Two roundings of numbers that are hardly above 1.
        np.testing.assert_allclose(x, expected, atol=5e-7 if is_kernel else 0, rtol=0)


def test_no_gradient_of_the_base_is_computed():
    """Counted: all products that the frozen run does not make are those of weight gradients."""
    adapter, params = made(LoRA(rank=1, targets=("query",)))

    def flops(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    def loss(params, base):
        return adapter.decoder.packed(adapter.attach(base, params), rows()).sum()

    forward = flops(loss, params, BASE)
    frozen = flops(jax.grad(loss, argnums=0), params, BASE)
    every = flops(jax.grad(loss, argnums=1), params, BASE)
    # A backward pass costs two forward passes, half of it for the weights: 3 against 2, and what
    # is no product (norms, softmax, rotations) blurs it in a model as small as this.
    assert frozen < 2.4 * forward
    assert every > 2.6 * forward


def test_the_bases_arrays_are_not_copied():
    adapter, params = made(LoRA(rank=4))
    whole = adapter.attach(BASE, params)
    query = whole["layers"]["attention"]["query"]
    assert query["kernel"].kernel is BASE["layers"]["attention"]["query"]["kernel"]
    assert whole["embed"] is BASE["embed"]
    assert isinstance(BASE["layers"]["attention"]["query"]["kernel"], jax.Array)


def test_dropout_is_a_function_of_its_key_and_every_layer_draws_its_own():
    adapter, params = made(LoRA(rank=4, dropout=0.5))
    one, again, other = (hidden(adapter, params, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    keys = adapter.attach(BASE, params, jax.random.key(0))["layers"]["attention"]["query"]["kernel"]
    assert len(np.unique(jax.random.key_data(keys.key), axis=0)) == 3
    quiet = hidden(adapter, params)  # without a key nothing is left out
    np.testing.assert_array_equal(quiet, hidden(*made(LoRA(rank=4))))


def test_first_matrices_are_those_of_peft():
    """A uniform within 1 / sqrt(inputs), which is Kaiming's for a leak of sqrt 5; B 0."""
    adapter = Adapter(decoder=DECODER, settings=LoRA(rank=64))
    params = adapter.init(jax.random.key(0), BASE)["layers"]
    for path, inputs in (("query", 32), ("out", 32)):  # out: 4 heads of 8
        a = np.asarray(params["attention"][path]["a"])
        bound = 1 / math.sqrt(inputs)
        assert np.abs(a).max() <= bound
        # Of a uniform draw the deviation is bound / sqrt 3; 6,144 numbers.
        assert a.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert not np.asarray(params["attention"][path]["b"]).any()


@every_kind
def test_shapes_and_axes_are_those_of_what_is_drawn(kind):
    adapter = Adapter(decoder=DECODER, settings=KINDS[kind])
    abstract = adapter.abstract()
    drawn = adapter.init(jax.random.key(0), BASE)
    jax.tree.map(lambda x, y: np.testing.assert_equal(x.shape, y.shape), drawn, abstract)
    query = abstract["layers"]["attention"]["query"]
    assert query["a"].shape == (3, 32, 4)
    assert query["b"].shape == (3, 4, 4, 8)
    out = adapter.axes()["layers"]["attention"]["out"]
    assert out["a"] == ("layers", "heads", "head_dim", "rank")
    assert out["b"] == ("layers", "rank", "embed")
    mask = decay_mask(adapter.axes())["layers"]["attention"]["query"]
    assert mask == {"a": True, "b": True} | ({"magnitude": False} if kind == "dora" else {})


def test_on_a_mesh_the_adapter_lies_as_its_base_and_computes_the_same():
    adapter, params = made(LoRA(rank=4, dora=True))
    expected = hidden(adapter, params)
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
    places = sharding.parameters(mesh, adapter.abstract(), adapter.axes())
    spec = places["layers"]["mlp"]["gate"]
    assert tuple(spec["a"].spec) == (None, "fsdp", None)
    assert tuple(spec["b"].spec) == (None, None, "tensor")
    assert tuple(spec["magnitude"].spec) == (None, "tensor")
    base = jax.device_put(BASE, sharding.parameters(mesh, DECODER.abstract(), DECODER.axes()))
    with jax.set_mesh(mesh):
        # Rows are split in four, and there is one: four times the same.
        four = jax.tree.map(lambda x: jnp.repeat(x, 4, axis=0), rows())
        found = jax.jit(lambda p, b: DECODER.packed(adapter.attach(b, p), four))(
            jax.device_put(params, places), base
        )
    np.testing.assert_allclose(found[:1], expected, atol=2e-5, rtol=1e-5)


# --- Targets


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("all-linear",), "query key value out gate up down"),
        (("query", "mlp/up"), "query up"),
        (("q_proj", "mlp.down_proj"), "query down"),
        (("down", "down_proj", "mlp/down"), "down"),
    ],
    ids=str,
)
def test_targets_are_named_our_way_or_as_the_model_names_them(targets, expected):
    adapter = Adapter(decoder=DECODER, settings=LoRA(targets=targets), aliases=ALIASES)
    assert {path[-1] for path in adapter.paths} == set(expected.split())


def test_a_target_that_is_no_layer_is_answered_with_those_that_are():
    adapter = Adapter(decoder=DECODER, settings=LoRA(targets=("query", "q_porj")), aliases=ALIASES)
    with pytest.raises(BadInput) as error:
        _ = adapter.paths
    assert str(error.value) == (
        "adapter.targets: expected layers of the model: attention/key, attention/out, "
        "attention/query (self_attn.q_proj), attention/value, mlp/down (mlp.down_proj), mlp/gate, "
        "mlp/up; or all-linear; got 'q_porj'.\n    Did you mean q_proj?"
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [("rank", 0), ("rank", -1), ("alpha", 0.0), ("alpha", math.nan), ("dropout", 1.0),
     ("dropout", -0.1), ("targets", ())],
)  # fmt: skip
def test_numbers_that_no_adapter_has_are_refused_by_name(setting, value):
    with pytest.raises(BadInput) as error:
        dataclasses.replace(LoRA(), **{setting: value}).check()
    assert error.value.where == f"adapter.{setting}"
    assert error.value.got == repr(value)


def test_a_reward_models_head_is_trained_whole():
    config = dataclasses.replace(DECODER.config, num_scores=2)
    adapter = Adapter(decoder=Decoder(config=config), settings=LoRA(rank=2))
    base = adapter.decoder.init(jax.random.key(0))
    params = adapter.init(jax.random.key(1), base)
    assert params["score"].shape == adapter.abstract()["score"].shape == (2, 32)
    assert adapter.axes()["score"] == ("scores", "embed")
    moved = params | {"score": params["score"] + 1}
    np.testing.assert_array_equal(adapter.attach(base, moved)["score"], base["score"] + 1)


def test_a_path_leads_to_what_lies_there():
    assert at({"a": {"b": 3}}, ("a", "b")) == 3


def test_experts_and_their_router_have_no_adapter():
    config = dataclasses.replace(DECODER.config, experts=Experts(count=4, per_token=2))
    adapter = Adapter(decoder=Decoder(config=config), settings=LoRA(rank=2))
    names = {"/".join(path) for path in adapter.paths}
    assert names == {f"attention/{name}" for name in ("query", "key", "value", "out")}
