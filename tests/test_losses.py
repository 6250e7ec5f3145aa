"""The contract of `alignax.losses`: names, argument names, shapes, dtypes, gradients, references.

A new loss is tested by a line in `SIGNATURES` and one in `ARRAYS`.
"""

import functools
import inspect
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from alignax import losses

GOLDEN = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())

SIGNATURES = {
    "bradley_terry": "rewards, margin=0.0, *, centre=0.0",
    "clipped_policy_gradient": "logprobs, old_logprobs, advantages, mask, *, clip_low, clip_high, "
    "dual_clip=None",
    "clipped_value": "values, old_values, returns, mask, *, clip",
    "cpo": "logprobs, *, beta, label_smoothing=0.0",
    "dpo": "logprobs, ref_logprobs, *, beta, label_smoothing=0.0",
    "generalised_advantage": "rewards, values, mask, *, discount, decay",
    "greedy_advantage": "rewards, greedy",
    "group_advantage": "rewards, valid=None, *, scale=True, eps=0.0001",
    "hinge": "logprobs, ref_logprobs, *, beta",
    "ipo": "logprobs, ref_logprobs, *, tau",
    "kl_estimate": "logprobs, ref_logprobs, *, kind",
    "kto": "logprobs, ref_logprobs, desirable, kl, *, beta, desirable_weight=1.0, "
    "undesirable_weight=1.0",
    "leave_one_out_advantage": "rewards, valid=None",
    "nll": "logprobs, mask",
    "orpo": "logprobs",
    "overlong_penalty": "lengths, *, max_length, buffer",
    "plackett_luce": "rewards, scores, valid=None",
    "policy_gradient": "logprobs, advantages, mask",
    "pro": "logprobs, scores, valid=None, *, temperature=True",
    "rejection_sample": "key, rewards, *, num_samples, beta",
    "reward_weights": "scores, *, beta, max_weight, normalise=True",
    "robust_dpo": "logprobs, ref_logprobs, *, beta, label_smoothing",
    "rrhf": "logprobs, scores, valid=None",
    "sequence_clipped_policy_gradient": "logprobs, old_logprobs, advantages, mask, *, clip_low, "
    "clip_high",
    "simpo": "logprobs, *, beta, gamma",
    "slic": "logprobs, *, delta",
}
# For each loss: the arrays of one prompt, and hyperparameters. The numbers are small and binary
# fractions, so that bfloat16 holds them exactly. What is masked or invalid comes last.
PAIR, REFERENCE = [-12.0, -15.0], [-13.0, -14.5]
RANKED = ([-3.0, -2.5, -4.0, -1.0], [1.0, 0.25, -0.5, 2.0], [True, True, True, False])
TOKENS = [-1.0, -0.5, -2.0, -0.25], [-1.125, -0.5, -2.5, -3.0], [1.0, -0.5, -2.0, 1.0]
MASK = [True, True, True, False]
CLIPS = {"clip_low": 0.25, "clip_high": 0.0625}
ARRAYS = {
    "bradley_terry": (([1.5, 0.5], 0.25), {"centre": 0.125}),
    "clipped_policy_gradient": ((*TOKENS, MASK), {**CLIPS, "dual_clip": 1.25}),
    "clipped_value": ((*TOKENS, MASK), {"clip": 0.25}),
    "cpo": ((PAIR,), {"beta": 0.5, "label_smoothing": 0.125}),
    "dpo": ((PAIR, REFERENCE), {"beta": 0.5, "label_smoothing": 0.125}),
    "generalised_advantage": ((*TOKENS[:2], MASK), {"discount": 1.0, "decay": 0.75}),
    "greedy_advantage": ((1.5, 0.5), {}),
    "group_advantage": (RANKED[1:], {"scale": True, "eps": 0.125}),
    "hinge": ((PAIR, REFERENCE), {"beta": 0.25}),
    "ipo": ((PAIR, REFERENCE), {"tau": 0.25}),
    "kl_estimate": ((TOKENS[0], TOKENS[1]), {"kind": "k3"}),
    "kto": ((-12.0, -13.0, True, 0.25), {"beta": 0.5, "desirable_weight": 1.5}),
    "leave_one_out_advantage": (RANKED[1:], {}),
    "nll": (([-1.5, -0.25, -3.0], [True, False, True]), {}),
    "orpo": (([-0.25, -1.5],), {}),
    "overlong_penalty": ((14.0,), {"max_length": 20.0, "buffer": 8.0}),
    "plackett_luce": (RANKED, {}),
    "policy_gradient": ((TOKENS[0], TOKENS[2], MASK), {}),
    "pro": (RANKED, {"temperature": True}),
    "reward_weights": (([1.0, 0.25, -0.5],), {"beta": 0.5, "max_weight": 4.0}),
    "robust_dpo": ((PAIR, REFERENCE), {"beta": 0.5, "label_smoothing": 0.125}),
    "rrhf": (RANKED, {}),
    "sequence_clipped_policy_gradient": ((*TOKENS, MASK), CLIPS),
    "simpo": (([-3.0, -2.5],), {"beta": 2.0, "gamma": 0.5}),
    "slic": ((PAIR,), {"delta": 4.0}),
}
NUMBERS = {
    name: {key: value for key, value in keywords.items() if isinstance(value, float)}
    for name, (_, keywords) in ARRAYS.items()
    if any(isinstance(value, float) for value in keywords.values())
}
CONSTANTS = {name for name in SIGNATURES if name.endswith(("advantage", "_weights", "_penalty"))}
MASKED = sorted(
    name for name, (arrays, _) in ARRAYS.items() if np.asarray(arrays[-1]).dtype == bool
)

pinned = pytest.mark.parametrize("name", losses.__all__)
every = pytest.mark.parametrize("name", sorted(ARRAYS))
learning = pytest.mark.parametrize("name", sorted(set(ARRAYS) - CONSTANTS))
masked = pytest.mark.parametrize("name", MASKED)


def arrays(name, dtype=jnp.float32):
    found = [jnp.asarray(x) for x in ARRAYS[name][0]]
    return [x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in found]


def eager(name):
    return functools.partial(getattr(losses, name), **ARRAYS[name][1])


def total(name):
    return lambda *arrays: sum(x.sum() for x in jax.tree.leaves(eager(name)(*arrays)))


@functools.cache
def call(name):
    return jax.jit(eager(name))


@functools.cache
def gradient(name):
    """Of the sum of losses, for the first array."""
    return jax.jit(jax.grad(total(name)))


def stacked(name, shape):
    """The arrays with leading axes, no two entries alike."""
    scale = 1.0 + jnp.arange(np.prod(shape)).reshape(shape) / 8.0

    def stack(x):
        wide = jnp.broadcast_to(x, (*shape, *x.shape))
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return wide
        return wide * scale.reshape(*shape, *(1,) * x.ndim)

    return [stack(x) for x in arrays(name)]


def assert_close(found, expected, **tolerance):
    check = functools.partial(np.testing.assert_allclose, **{"rtol": 1e-6, **tolerance})
    jax.tree.map(check, found, expected)


# --- Names


def test_every_name_is_pinned_and_nothing_else_is_public():
    assert losses.__all__ == sorted(SIGNATURES)
    assert sorted(SIGNATURES) == sorted([*ARRAYS, "rejection_sample"])  # which has tests of its own
    functions = {name for name, x in vars(losses).items() if inspect.isfunction(x)}
    assert functions == set(losses.__all__)


@pinned
def test_argument_names_order_defaults_and_kinds_are_pinned(name):
    signature = inspect.signature(getattr(losses, name))
    bare = signature.replace(
        parameters=[
            p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
        ],
        return_annotation=inspect.Signature.empty,
    )
    assert str(bare) == f"({SIGNATURES[name]})"


@pinned
def test_says_what_it_takes_and_returns(name):
    text = inspect.getdoc(getattr(losses, name))
    assert "Args:" in text
    assert "Returns:" in text
    for argument in inspect.signature(getattr(losses, name)).parameters:
        assert f"{argument}: " in text


# --- Shapes, dtypes and transformations


@every
def test_bfloat16_arrays_give_the_same_float32_result(name):
    found = call(name)(*arrays(name, jnp.bfloat16))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))
    assert_close(found, call(name)(*arrays(name)))


@every
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_leading_axes_are_free(name, shape):
    wide = stacked(name, shape)
    found = call(name)(*wide)
    for i in np.ndindex(*shape):
        alone = call(name)(*(x[i] for x in wide))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            assert x.shape == (*shape, *y.shape)
            assert_close(x[i], y)


@every
def test_vmap_and_jit_agree_with_leading_axes(name):
    wide = stacked(name, (4,))
    expected = eager(name)(*wide)
    assert_close(call(name)(*wide), expected)
    assert_close(jax.vmap(call(name))(*wide), expected)
    assert_close(jax.vmap(gradient(name))(*wide), jax.grad(total(name))(*wide), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_hyperparameters_may_be_traced_and_swept(name):
    numbers = NUMBERS[name]

    def loss(numbers):
        return eager(name)(*arrays(name), **numbers)

    swept = jax.tree.map(lambda value: value * jnp.array([1.0, 0.5]), numbers)
    found = jax.jit(jax.vmap(loss))(swept)
    assert_close(jax.tree.map(lambda x: x[0], found), call(name)(*arrays(name)))
    half = jax.jit(lambda: loss({key: value / 2.0 for key, value in numbers.items()}))
    assert_close(jax.tree.map(lambda x: x[1], found), half())


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_hyperparameters_may_be_whole_numbers(name):
    whole = {key: int(2 * value) for key, value in NUMBERS[name].items()}
    real = {key: float(value) for key, value in whole.items()}
    loss = functools.partial(eager(name), *arrays(name))
    assert_close(*jax.jit(lambda: (loss(**whole), loss(**real)))())


# --- Gradients


@learning
def test_gradients_flow_through_the_first_array_only(name):
    given = stacked(name, (4,))
    floats = [i for i, x in enumerate(given) if jnp.issubdtype(x.dtype, jnp.floating)]
    slopes = jax.jit(jax.grad(total(name), argnums=floats))(*given)
    assert np.abs(slopes[0]).max() > 0
    for slope in slopes[1:]:
        np.testing.assert_array_equal(slope, 0.0)


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_no_gradient_flows_through_advantages_and_weights(name):
    given = stacked(name, (4,))
    floats = [i for i, x in enumerate(given) if jnp.issubdtype(x.dtype, jnp.floating)]
    squares = lambda *x: sum((y**2).sum() for y in jax.tree.leaves(eager(name)(*x)))  # noqa: E731
    value, slopes = jax.jit(jax.value_and_grad(squares, argnums=floats))(*given)
    assert value > 0
    for slope in slopes:
        np.testing.assert_array_equal(slope, 0.0)


@learning
def test_gradient_is_the_slope(name):
    first, *rest = arrays(name)
    loss = lambda x: call(name)(jnp.asarray(x), *rest)  # noqa: E731
    # Central differences over 2e-2, away from kinks; float32 and curvature cost about 1e-4.
    check_grads(loss, (first,), order=1, modes=["rev"], eps=1e-2, atol=1e-3, rtol=1e-3)


@learning
def test_values_and_gradients_stay_finite_far_out(name):
    first, *rest = arrays(name)
    # Every way of being 200 or 1,000 above, that far below, or (a tie) at the second array's
    # numbers, and at 0.
    ways = [itertools.product((-far, 0.0, far), repeat=first.size) for far in (200.0, 1000.0)]
    far = jnp.array([way for some in ways for way in some]).reshape(-1, *first.shape)
    near = rest[0] if rest and rest[0].shape == first.shape else jnp.zeros_like(first)
    far = jnp.concatenate([far, far + near[None]])
    wide = [jnp.broadcast_to(x, (len(far), *x.shape)) for x in rest]
    assert np.isfinite(call(name)(far, *wide)).all()
    assert np.isfinite(gradient(name)(far, *wide)).all()


# --- Masks


def floats_of_slots(given):
    mask = given[-1]
    return [i for i, x in enumerate(given) if x.shape == mask.shape and x.dtype != bool]


@masked
@pytest.mark.parametrize("junk", [1e30, -3e38, 0.0])
def test_numbers_off_the_mask_or_invalid_change_nothing(name, junk):
    given = arrays(name)
    slots = floats_of_slots(given)
    spoilt = [jnp.where(given[-1], x, junk) if i in slots else x for i, x in enumerate(given)]
    jax.tree.map(np.testing.assert_array_equal, call(name)(*spoilt), call(name)(*given))
    slope = gradient(name)(*spoilt)
    np.testing.assert_array_equal(slope, gradient(name)(*given))
    np.testing.assert_array_equal(slope[~given[-1]], 0.0)


@masked
@pytest.mark.parametrize("junk", [1e30, 0.5])
def test_an_empty_mask_gives_zero_and_no_gradient(name, junk):
    *given, mask = arrays(name)
    slots = floats_of_slots([*given, mask])
    given = [jnp.full_like(x, junk) if i in slots else x for i, x in enumerate(given)]
    empty = jnp.zeros_like(mask)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0.0), call(name)(*given, empty))
    np.testing.assert_array_equal(gradient(name)(*given, empty), 0.0)


@pytest.mark.parametrize("name", [n for n, text in SIGNATURES.items() if "valid=None" in text])
def test_all_are_valid_where_nothing_is_said(name):
    first, *given, mask = arrays(name)
    given = [first[::-1], *given]  # else the last response is where rrhf wants it
    found = call(name)(*given)
    jax.tree.map(np.testing.assert_array_equal, found, call(name)(*given, jnp.ones_like(mask)))
    assert (np.asarray(found) != np.asarray(call(name)(*given, mask))).any()


# --- References


def as_array(x):
    x = np.asarray(x)
    return jnp.asarray(x, bool if x.dtype == bool else jnp.float32)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["loss"])
def test_value_and_gradient_are_those_of_reference_implementations(case):
    function = functools.partial(getattr(losses, case["loss"]), **case["keywords"])
    both = lambda *x: (function(*x), jax.grad(lambda *x: function(*x).sum())(*x))  # noqa: E731
    value, slope = jax.jit(both)(*map(as_array, case["arrays"]))
    # Differences of numbers of the order of 10, which float32 holds to 1e-6.
    np.testing.assert_allclose(value, case["value"], rtol=2e-5, atol=2e-6)
    if "gradient" in case:
        np.testing.assert_allclose(slope, case["gradient"], rtol=2e-5, atol=2e-6)


def test_references_cover_every_loss_that_has_one():
    known = {case["loss"] for case in GOLDEN["cases"]}
    assert known == set(GOLDEN["of"])
    # DPO has its own, made by TRL; the others have no reference beyond their formula.
    own = {"dpo", "nll", "slic", "plackett_luce", "policy_gradient", "reward_weights"}
    simple = {"greedy_advantage", "generalised_advantage", "overlong_penalty", "rejection_sample"}
    assert known | own | simple == set(SIGNATURES)
