"""Properties that every method has. A method is tested by being listed in `ALL`."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.method import Method
from alignax.core.records import Demonstration, Group, Preference
from alignax.core.types import Batch, Outputs
from alignax.methods import ALL

B, R = 5, 6
RECORDS = {
    Preference: Preference(prompt="p", chosen="good", rejected="bad", origin="f:1"),
    Demonstration: Demonstration(prompt="p", response="good", origin="f:1"),
}
# What a method may leave undeclared, with the declaration that would make it use the field.
DECLARED = {"ref_logprobs": lambda needs: needs.reference,
            "old_logprobs": lambda needs: needs.sampling is not None,
            "old_values": lambda needs: needs.head == "value"}  # fmt: skip

every = pytest.mark.parametrize("method", [cls() for cls in ALL], ids=lambda m: type(m).__name__)


def responses(method) -> int:
    return len(method.group(RECORDS[method.needs().record]).responses)


def case(method, seed=0) -> tuple[Outputs, Batch]:
    """Random log-probs with unequal lengths; what is off the mask is 0, as models give it."""
    k = responses(method)
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, R + 1, (B, k))
    mask = jnp.asarray(np.arange(R) < lengths[..., None])
    table = lambda: jnp.where(mask, -jnp.asarray(draw.exponential(2.0, (B, k, R))), 0.0)  # noqa: E731
    batch = Batch(
        prompts=jnp.ones((B, 3), jnp.int32),
        prompt_lengths=jnp.full(B, 3, jnp.int32),
        responses=jnp.ones((B, k, R), jnp.int32),
        mask=mask,
        scores=jnp.asarray(np.sort(draw.normal(size=(B, k)))[:, ::-1].copy(), jnp.float32),
        valid=jnp.ones((B, k), bool),
        ref_logprobs=table().astype(jnp.float32),
        old_logprobs=table().astype(jnp.float32),
    )
    return Outputs(logprobs=table().astype(jnp.float32)), batch


def gradient(method, outputs, batch):
    def total(logprobs):
        return method.loss(outputs._replace(logprobs=logprobs), batch)[0].sum()

    return jax.jit(jax.grad(total))(outputs.logprobs)


@every
def test_is_a_final_frozen_value_with_named_settings(method):
    cls = type(method)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert cls.__bases__ == (Method,)
    assert not cls.__subclasses__()
    kinds = [p.kind for p in inspect.signature(cls).parameters.values()]
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for kind in kinds)
    hash(method.needs())


@every
def test_groups_a_record_with_the_best_response_first(method):
    found = method.group(RECORDS[method.needs().record])
    assert isinstance(found, Group)
    assert found.responses[0] == "good"
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert found.origin == "f:1"


@every
def test_gives_one_float32_loss_a_prompt_and_the_same_under_jit(method):
    outputs, batch = case(method)
    loss, metrics = method.loss(outputs, batch)
    assert loss.shape == (B,)
    assert loss.dtype == jnp.float32
    assert all(x.shape == (B,) for x in metrics.values())
    jitted = jax.jit(method.loss)(outputs, batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), (loss, metrics), jitted)
    half = outputs._replace(logprobs=outputs.logprobs.astype(jnp.bfloat16))
    assert method.loss(half, batch)[0].dtype == jnp.float32


@every
def test_permuting_prompts_permutes_losses(method):
    outputs, batch = case(method)
    order = jnp.array([3, 0, 4, 1, 2])
    turned = jax.tree.map(lambda x: x[order], (outputs, batch))
    np.testing.assert_allclose(
        method.loss(*turned)[0], method.loss(outputs, batch)[0][order], rtol=1e-6
    )


@every
def test_padding_changes_nothing(method):
    outputs, batch = case(method)
    wide = lambda x, fill: jnp.pad(x, ((0, 2), (0, 0), (0, 3)), constant_values=fill)  # noqa: E731
    rows = lambda x: jnp.pad(x, ((0, 2), *((0, 0),) * (x.ndim - 1)))  # noqa: E731
    padded = Batch(
        prompts=rows(batch.prompts),
        prompt_lengths=rows(batch.prompt_lengths),
        responses=wide(batch.responses, 7),
        mask=wide(batch.mask, False),
        scores=rows(batch.scores),
        valid=rows(batch.valid),
        ref_logprobs=wide(batch.ref_logprobs, 0.0),
        old_logprobs=wide(batch.old_logprobs, 0.0),
    )
    found = method.loss(Outputs(logprobs=wide(outputs.logprobs, 0.0)), padded)[0]
    np.testing.assert_allclose(found[:B], method.loss(outputs, batch)[0], rtol=1e-6)
    assert np.isfinite(found).all()


@every
def test_what_it_does_not_declare_it_does_not_read(method):
    outputs, batch = case(method)
    expected = method.loss(outputs, batch)
    poison = {
        name: None if getattr(batch, name) is None else jnp.full_like(getattr(batch, name), jnp.nan)
        for name, declared in DECLARED.items()
        if not declared(method.needs())
    }
    jax.tree.map(
        np.testing.assert_array_equal, method.loss(outputs, batch._replace(**poison)), expected
    )


@every
def test_gradients_are_finite_with_ties_empty_masks_and_extreme_margins(method):
    outputs, batch = case(method)
    tied = outputs._replace(logprobs=jnp.broadcast_to(outputs.logprobs[:, :1], batch.mask.shape))
    empty = batch._replace(mask=batch.mask.at[0].set(False))
    extreme = outputs._replace(logprobs=outputs.logprobs.at[:, 0].mul(1000.0))
    for out, inputs in ((outputs, batch), (tied, batch), (outputs, empty), (extreme, batch)):
        assert np.isfinite(method.loss(out, inputs)[0]).all()
        assert np.isfinite(gradient(method, out, inputs)).all()
    assert (gradient(method, outputs, empty)[0] == 0).all()


@every
def test_nothing_off_the_mask_reaches_the_gradient(method):
    outputs, batch = case(method)
    dirty = outputs._replace(logprobs=jnp.where(batch.mask, outputs.logprobs, jnp.nan))
    found = gradient(method, dirty, batch)
    np.testing.assert_array_equal(found, gradient(method, outputs, batch))
    assert (found[~batch.mask] == 0).all()


@every
def test_a_few_steps_downhill_lower_the_loss(method):
    outputs, batch = case(method)
    start = method.loss(outputs, batch)[0].mean()
    logprobs = outputs.logprobs
    for _ in range(5):
        logprobs -= 0.5 * gradient(method, outputs._replace(logprobs=logprobs), batch)
    assert method.loss(outputs._replace(logprobs=logprobs), batch)[0].mean() < start
