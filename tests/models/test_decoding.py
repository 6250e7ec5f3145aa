"""The kernel of a decoding step gives what writing to the cache and attending to it gives.

No GPU is here: its steps run as plain XLA, and a lowering shows that Triton's exists.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core import axes
from alignax.generate.sampler import Sampler, sample
from alignax.models import decoding
from alignax.models.caching import Cache, cached_attention, visible, write
from alignax.models.config import LayerKind
from alignax.models.decoding import Blocks
from alignax.models.rotary import Rope, angles, rotate
from alignax.models.transformer import Decoder
from tests.tiny_batch import CONFIG

H100 = jax.sharding.AbstractMesh(
    (), (), abstract_device=jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
)
FILLED, LENGTHS = [[40, 0, 3, 12], [7, 39, 8, 6]], [100, 1]


def begun(*, k=4, g=3, shared=3, e=64, p=100, r=40, at=7, dtype="float32"):
    """Two prompts, unequally long, in the middle of k responses each: arrays for `attend`."""
    keys = iter(jax.random.split(jax.random.key(0), 7))

    def draw(*shape):
        return (1.5 * jax.random.normal(next(keys), shape)).astype(dtype)

    cache = Cache(
        prompt_key=(draw(2, g, e, p),),
        prompt_value=(draw(2, g, p, e),),
        prompt_lengths=jnp.minimum(jnp.array(LENGTHS), p),
        key=(draw(2, k, g, e, r),),
        value=(draw(2, k, g, r, e),),
        filled=jnp.minimum(jnp.array(FILLED)[:, :k], r),
        at=jnp.int32(at),
    )
    return (draw(2, k, 1, g * shared, e), draw(2, k, 1, g, e), draw(2, k, 1, g, e)), cache


def as_one(new, cache, scale=None):
    return decoding.attend(*new, cache.without_ones(), 0, scale=scale)


def in_parts(new, cache, scale=None):
    query, *new = new
    lean = cache.without_ones()
    held = write(lean, 0, *new)
    prompt = cache.prompt_key[0], cache.prompt_value[0]
    own, seen = map(lean.whole, held), visible(cache, 1, None)
    return cached_attention(query, *prompt, *own, *seen, scale=scale), held


def assert_same(found, expected, atol):
    np.testing.assert_allclose(*(np.float32(x[0]) for x in (found, expected)), rtol=0, atol=atol)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"k": 1},
        {"g": 1, "shared": 1},
        {"g": 1, "shared": 20},
        {"e": 128, "p": 300, "at": 0},
        {"r": 300, "at": 39},  # several blocks of a ring that nobody has filled
        {"r": 300, "at": 2},  # the past begins in its last block
        {"r": 128, "p": 128, "at": 127},
        {"r": 1, "at": 0, "p": 1},
    ],
    ids=str,
)
def test_one_kernel_writes_and_attends_as_the_parts_do(shape):
    # Of the ring nothing is filled, or all, or what goes round its end, or one place less.
    arrays = begun(**shape)
    assert_same(jax.jit(as_one)(*arrays), in_parts(*arrays), 1e-5)


@pytest.mark.parametrize("at", [0, 1, 127, 128, 150, 255, 299])
@pytest.mark.parametrize("filled", [0, 1, 150, 172, 299, 300])
def test_every_place_of_the_past_is_seen_once(at, filled):
    new, cache = begun(r=300, at=at, k=1, g=1, p=16)
    cache = cache._replace(filled=jnp.full_like(cache.filled, filled))
    assert_same(jax.jit(as_one)(new, cache), in_parts(new, cache), 1e-5)


def test_bfloat16_is_summed_in_float32():
    new, cache = begun(dtype="bfloat16")
    found, held = jax.jit(as_one)(new, cache)
    assert found.dtype == held[0].dtype == jnp.bfloat16
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == "bfloat16" else x, cache)
    exact, _ = in_parts([x.astype(jnp.float32) for x in new], wide)
    # Weights, at most 1, and the result are rounded to 8 bits: by 2**-9 of values up to 6.
    np.testing.assert_allclose(np.float32(found), exact, rtol=2**-8, atol=6 * 2**-9)


def test_a_scale_of_ones_own_is_heard():
    new, cache = begun()
    assert_same(as_one(new, cache, 0.3), in_parts(new, cache, 0.3), 1e-5)


def test_what_nobody_sees_may_be_anything():
    new, cache = begun()
    age = (7 - jnp.arange(40)) % 40  # places before the new one; and its own, which is written
    unseen = (age[None, None] > cache.filled[..., None]) | (age == 0)[None, None]
    after = jnp.arange(100)[None] >= cache.prompt_lengths[:, None]
    spoilt = cache._replace(
        prompt_key=(jnp.where(after[:, None, None], jnp.nan, cache.prompt_key[0]),),
        prompt_value=(jnp.where(after[:, None, :, None], jnp.nan, cache.prompt_value[0]),),
        key=(jnp.where(unseen[:, :, None, None], jnp.nan, cache.key[0]),),
        value=(jnp.where(unseen[:, :, None, :, None], jnp.nan, cache.value[0]),),
    )
    np.testing.assert_array_equal(as_one(new, spoilt)[0], as_one(new, cache)[0])


def test_it_is_mapped_over_another_axis():
    new, cache = begun(k=2)
    others = jax.tree.map(lambda x: x[::-1] if x.ndim else x + 5, (new, cache))
    both = jax.tree.map(lambda x, y: jnp.stack([x, y]), (new, cache), others)
    found = jax.vmap(as_one)(*both)
    for i, arrays in enumerate([(new, cache), others]):
        assert_same(jax.tree.map(lambda x, i=i: x[i], found), in_parts(*arrays), 1e-5)


def in_three_parts(new, cache):
    """Arrays for `attend_sums` whose sums, turned, are queries and keys; and angles."""
    whole = jnp.concatenate(new, axis=3)[:, :, 0]
    noise = jax.random.normal(jax.random.key(7), (2, *whole.shape))
    position = cache.prompt_lengths[:, None] + cache.filled
    return jnp.stack([*noise, whole - noise.sum(0)]), angles(Rope(), 64, position)


def turned(new, cache):
    """What `attend_sums` does with them first, in plain words."""
    _, angle = in_three_parts(new, cache)
    angle = jax.tree.map(lambda x: x[:, :, None], angle)
    query, key, value = new
    return rotate(query, angle), rotate(key, angle), value


def test_parts_are_added_up_and_turned_before_they_are_attended_to():
    new, cache = begun()
    parts, angle = in_three_parts(new, cache)
    run = jax.jit(lambda *x: decoding.attend_sums(*x, 0))
    found, rings = run(parts, angle, cache.without_ones())
    expected, held = in_parts(turned(new, cache), cache)
    np.testing.assert_allclose(found, expected[:, :, 0], rtol=0, atol=1e-4)
    for one, other in zip(rings, held, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_parts_are_mapped_over_another_axis():
    one = begun(k=2)
    both = one, jax.tree.map(lambda x: x[::-1] if x.ndim else x + 5, one)
    arrays = [(*in_three_parts(*x), x[1].without_ones()) for x in both]
    run = lambda *x: decoding.attend_sums(*x, 0)  # noqa: E731
    found = jax.vmap(run)(*jax.tree.map(lambda x, y: jnp.stack([x, y]), *arrays))
    for i, (new, cache) in enumerate(both):
        expected, _ = in_parts(turned(new, cache), cache)
        np.testing.assert_allclose(found[0][i], expected[:, :, 0], rtol=0, atol=1e-4)


# JAX says since 0.11 that Pallas's way to Triton will go; without it XLA's kernels serve.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("shape", [{}, {"e": 128, "p": 300, "dtype": "bfloat16"}], ids=str)
def test_it_is_lowered_for_nvidias_gpus_as_one_call(shape):
    arrays = begun(**shape)
    with jax.sharding.use_abstract_mesh(H100):
        assert decoding.served()
        lowered = jax.jit(as_one).trace(*arrays).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert text.count("custom_call") == text.count("xla.gpu.triton") == 1
    assert text.count("output_operand_alias<") == 2  # both rings are written in place


def test_other_devices_and_meshes_of_several_are_not_served(monkeypatch):
    assert not decoding.served()
    monkeypatch.setattr(axes, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    assert decoding.served()
    with jax.set_mesh(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])):
        assert decoding.served()
    with jax.set_mesh(jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])):
        assert not decoding.served()
    monkeypatch.setattr(decoding, "triton", None)
    assert not decoding.served()


def test_what_the_kernel_cannot_compute_it_is_not_given():
    def fits(**changes):
        config = dataclasses.replace(CONFIG, **({"head_dim": 64} | changes))
        assert not decoding.fits(config, "float32")
        return decoding.fits(config, "bfloat16")

    assert fits()
    assert fits(head_dim=128, heads=64, kv_heads=1)
    assert not fits(head_dim=96)
    assert not fits(heads=65, kv_heads=1)
    assert not fits(attention_softcap=50.0)
    assert not fits(kinds=(LayerKind(), LayerKind(window=4)))


def test_blocks_are_powers_of_two_and_cover_their_axis():
    assert decoding.blocks(128, 64) == Blocks(128, 128, 1)
    assert decoding.blocks(1000, 64) == Blocks(1000, 128, 8)
    assert decoding.blocks(1000, 128) == Blocks(1000, 64, 16)
    assert decoding.blocks(40, 64) == Blocks(40, 64, 1)
    assert decoding.blocks(3, 64) == Blocks(3, 16, 1)


@functools.cache
def model():
    made = Decoder(config=dataclasses.replace(CONFIG, head_dim=64))
    return made, made.init(jax.random.key(0))


@pytest.fixture
def kernels(monkeypatch):
    """Serves the kernel here, in float32 too, which tells more; where it was asked for."""
    asked = []

    def attend(*arrays, **how):
        asked.append(arrays[4])
        return decoding_attend(*arrays, **how)

    decoding_attend, fits = decoding.attend, decoding.fits
    monkeypatch.setattr(decoding, "fits", lambda config, dtype: fits(config, "bfloat16"))
    monkeypatch.setattr(decoding, "served", lambda: True)
    monkeypatch.setattr(decoding, "attend", attend)
    return asked


@pytest.mark.parametrize("count", [1, 3])
def test_responses_are_the_same_with_the_kernel(count, kernels):
    decoder, params = model()

    def drawn(decoder):
        prompts, lengths = jnp.array([[3, 1, 4], [1, 5, 0]]), jnp.array([3, 2])
        sampler = Sampler(num_samples=count, max_new_tokens=9)
        run = jax.jit(functools.partial(sample, decoder, sampler=sampler))
        return run(params, jax.random.key(2), prompts, lengths, jnp.arange(2), jnp.array([99]))

    found = drawn(decoder)
    assert kernels == [0, 1]  # each layer's, in a loop that is traced once
    expected = drawn(dataclasses.replace(decoder, attention="xla"))
    assert kernels == [0, 1]  # who asks for XLA has it
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=0, atol=1e-5)


def test_a_response_of_one_token_that_is_scored_has_gradients(kernels):
    decoder, params = model()
    prompts = jnp.array([[3, 1, 4]])
    prefill = functools.partial(decoder.prefill, num_responses=2, max_response=1)

    def loss(params):
        _, cache = prefill(params, prompts, jnp.array([3]))
        return decoder.extend(params, cache, jnp.array([[[5], [6]]]))[0].sum()

    jax.eval_shape(jax.grad(loss), params)  # the kernel has none
    assert kernels == []
