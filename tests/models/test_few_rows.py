"""Products of a few rows, and the sums between them, give what plain arithmetic gives.

No GPU is here: the kernels' steps run as plain XLA, and a lowering shows that Triton's exist.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.models import few_rows
from alignax.models.parts import ACTIVATIONS
from tests.models.test_decoding import H100

ROWS = [1, 16, 20, 64, 128]


def draw(*shapes, dtype="float32"):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    pairs = zip(keys, shapes, strict=True)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in pairs]


def exact(x):
    return np.asarray(x, np.float64)


@pytest.mark.parametrize("rows", ROWS)
def test_the_parts_of_a_product_add_up_to_it(rows):
    x, matrix = draw((rows, 192), (192, 128))
    found = few_rows.product(x, matrix)
    assert found.shape == (3, rows, 128)  # three blocks are summed over, and two of columns read
    np.testing.assert_allclose(exact(found).sum(0), exact(x) @ exact(matrix), rtol=0, atol=1e-4)
    # Each is of its own third, from the first on.
    first = exact(x)[:, :64] @ exact(matrix)[:64]
    np.testing.assert_allclose(found[0], first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("programs", [2, 120])  # that keep all busy: columns are wide, or narrow
@pytest.mark.parametrize("rows", ROWS)
def test_two_products_are_multiplied_after_the_activation_of_the_first(
    rows, programs, activation, monkeypatch
):
    monkeypatch.setattr(few_rows, "PROGRAMS", programs)
    x, matrix = draw((rows, 128), (128, 2, 192))
    act = ACTIVATIONS[activation]
    found = few_rows.gated(x, matrix, act)
    gate, up = (exact(x) @ exact(matrix)[:, i] for i in (0, 1))
    expected = exact(act(jnp.asarray(gate, jnp.float32))) * up
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("width", [128, 192])  # a power of two, and none
@pytest.mark.parametrize("rows", ROWS)
def test_a_sum_and_its_norm_by_hand(rows, width):
    pieces, stream, scale = draw((3, rows, width), (rows, width), (width,))
    new, normed = few_rows.added(pieces, stream, scale, 1e-5)
    total = exact(stream) + exact(pieces).sum(0)
    np.testing.assert_allclose(new, total, rtol=0, atol=1e-5)
    root = np.sqrt((total**2).mean(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normed, total / root * exact(scale), rtol=0, atol=1e-5)


def test_bfloat16_is_summed_in_float32():
    x, matrix, sides = draw((20, 512), (512, 64), (512, 2, 64), dtype="bfloat16")
    found = few_rows.product(x, matrix)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(exact(found).sum(0), exact(x) @ exact(matrix), rtol=0, atol=2e-4)
    gated = few_rows.gated(x, sides, ACTIVATIONS["relu"])
    assert gated.dtype == jnp.bfloat16
    gate, up = (exact(x) @ exact(sides)[:, i] for i in (0, 1))
    # Each side is rounded to 8 bits, and so is what they give: thrice by at most 2**-8 of it.
    np.testing.assert_allclose(exact(gated), np.maximum(gate, 0) * up, rtol=3.1 * 2**-8, atol=1e-3)


def test_in_bfloat16_the_norm_is_of_the_sum_as_the_stream_has_it():
    stream, scale = draw((20, 128), (128,), dtype="bfloat16")
    (pieces,) = draw((3, 20, 128))
    new, normed = few_rows.added(pieces, stream, scale, 1e-5)
    # A product's result is rounded before it is added, as a block has it, and then the sum.
    expected = stream + pieces.sum(0).astype(jnp.bfloat16)
    off = np.abs(exact(new) - exact(expected))
    np.testing.assert_array_less(off, 2**-7 * (np.abs(exact(expected)) + 1))
    wide = exact(new)
    root = np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5)
    # Rounded to 8 bits are the norm and its product with the scale; and XLA, which runs this where
    # no GPU is, may leave the sum's rounding out before the norm: thrice by at most 2**-8.
    np.testing.assert_allclose(exact(normed), wide / root * exact(scale), rtol=3.1 * 2**-8, atol=0)


def test_they_are_mapped_over_another_axis():
    x, matrix, sides = draw((2, 20, 128), (2, 128, 64), (2, 128, 2, 64))
    pieces, stream, scale = draw((2, 3, 20, 64), (2, 20, 64), (2, 64))
    gated = functools.partial(few_rows.gated, activation=jax.nn.silu)
    added = functools.partial(few_rows.added, eps=1e-5)
    for run, arrays in (
        (few_rows.product, (x, matrix)),
        (gated, (x, sides)),
        (added, (pieces, stream, scale)),
    ):
        found = jax.vmap(run)(*arrays)
        for i in range(2):
            expected = run(*(a[i] for a in arrays))
            for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
                np.testing.assert_allclose(one[i], other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("out", "summed", "count"),
    [
        # Columns of 64 times parts: 120 or more where they can be, and no more parts than needed.
        (8192, 2048, 1),  # 128 columns
        (5120, 3072, 2),  # 80; 48 blocks of 64 are summed over
        (3072, 3072, 3),  # 48
        (3072, 2048, 4),  # 48; 3 does not divide 32 blocks
        (2048, 8192, 4),  # 32
        (576, 1536, 12),  # 9: 108 are the most that 24 blocks give in 16 parts at most
        (576, 576, 9),
    ],
)
def test_a_product_is_cut_until_all_processors_read(out, summed, count):
    assert few_rows.parts(out, summed) == count


def test_which_arrays_fit():
    assert few_rows.fits(1, 64, 576, 8192)
    assert few_rows.fits(128, 64)
    assert not few_rows.fits(129, 64)
    assert not few_rows.fits(64, 64, 96)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("rows", [20, 64])
def test_each_is_lowered_for_nvidias_gpus_as_one_call(rows, activation):
    x, matrix, sides = draw((rows, 192), (192, 128), (192, 2, 128), dtype="bfloat16")
    pieces, stream, scale = draw((3, rows, 192), (rows, 192), (192,))
    gated = functools.partial(few_rows.gated, activation=ACTIVATIONS[activation])
    added = functools.partial(few_rows.added, eps=1e-5)
    members = jax.tree.map(lambda a: jnp.stack([a, a]), (x, matrix))
    with jax.sharding.use_abstract_mesh(H100):
        for run, arrays in (
            (few_rows.product, (x, matrix)),
            (jax.vmap(few_rows.product), members),
            (gated, (x, sides)),
            (added, (pieces, stream.astype("bfloat16"), scale)),
        ):
            text = jax.jit(run).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
            assert text.count("custom_call") == text.count("xla.gpu.triton") == 1
