"""What holds for every method. A new method is tested by being listed in `methods.ALL`.

Where it learns from a new type of record, that is one line in `method_cases.py`; where it reads a
new field, one here.
"""

import dataclasses
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax import methods
from alignax.core.method import Method
from tests.method_cases import RANKED, RECORDS, TOKENS, case, made

# The fields of a record that become scores.
SCORES = {"scores", "score", "desirable", "margin"}
every = pytest.mark.parametrize("cls", methods.ALL, ids=lambda cls: cls.__name__)


def mean_loss(method, outputs, batch):
    return method.loss(outputs, batch)[0].mean()


def gradient(method, outputs, batch):
    """Of the mean loss, for every output that the method may read."""
    return jax.grad(lambda outputs: mean_loss(method, outputs, batch))(outputs)


def take(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def assert_close(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
                 found, expected)  # fmt: skip


def assert_finite(tree):
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


# --- What a method is


def test_all_names_every_method_of_the_package():
    found = set()
    for module in pkgutil.iter_modules(methods.__path__):
        names = vars(importlib.import_module(f"alignax.methods.{module.name}")).values()
        found |= {x for x in names if inspect.isclass(x) and issubclass(x, Method)} - {Method}
    assert found == set(methods.ALL)


@every
def test_is_a_final_frozen_dataclass_whose_fields_are_named(cls):
    assert cls.__bases__ == (Method,)
    assert cls.__subclasses__() == []
    assert dataclasses.is_dataclass(cls)
    fields = dataclasses.fields(cls)
    assert all(field.kw_only for field in fields)
    for name in [field.name for field in fields] or ["anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cls(), name, 1.0)


@every
def test_is_a_value(cls):
    assert cls() == cls()
    assert hash(cls()) == hash(cls())


@every
def test_explains_every_hyperparameter(cls):
    text = inspect.getdoc(cls)
    for field in dataclasses.fields(cls):
        assert f"{field.name}: " in text


@every
def test_needs_are_a_value(cls):
    assert hash(cls().needs()) == hash(cls().needs())
    assert cls().needs() == cls().needs()


@every
def test_the_preferred_response_comes_first_and_scores_fall(cls):
    record = cls().needs().record
    group = made(cls).group(RECORDS[record])
    assert group.prompt.startswith("p")  # a request may follow
    assert group.origin == "f:3"
    assert group.responses == RANKED[record]
    assert len(group.scores) == len(group.responses)
    assert list(group.scores) == sorted(group.scores, reverse=True)


# --- What a loss is


@every
def test_gives_one_float32_loss_and_metric_for_each_prompt(cls):
    method, outputs, batch = case(cls)
    for dtype in (jnp.float32, jnp.bfloat16):
        losses, metrics = method.loss(outputs._replace(logprobs=outputs.logprobs.astype(dtype)),
                                      batch)  # fmt: skip
        for x in (losses, *metrics.values()):
            assert (x.shape, x.dtype) == ((len(batch.valid),), jnp.float32)


@every
def test_is_the_same_under_jit(cls):
    method, outputs, batch = case(cls)
    assert_close(jax.jit(method.loss)(outputs, batch), method.loss(outputs, batch))
    compiled = jax.jit(lambda outputs, batch: gradient(method, outputs, batch))
    assert_close(compiled(outputs, batch), gradient(method, outputs, batch))


@every
def test_permuting_prompts_permutes_losses(cls):
    method, outputs, batch = case(cls)
    order = jnp.array([3, 0, 4, 1, 2])
    found = method.loss(take(outputs, order), take(batch, order))
    assert_close(found, take(method.loss(outputs, batch), order))


@every
def test_longer_padding_of_responses_changes_nothing(cls):
    method, outputs, batch = case(cls)

    def pad(x):
        wide = [(0, 0)] * x.ndim
        if x.shape[2:] == (TOKENS,):
            wide[2] = (0, 7)
        return jnp.pad(x, wide)

    found = method.loss(*jax.tree.map(pad, (outputs, batch)))
    assert_close(found, method.loss(outputs, batch))


@every
def test_prompts_that_only_fill_the_batch_change_no_other_prompts_loss(cls):
    method, outputs, batch = case(cls)
    full = jax.tree.map(lambda x: jnp.pad(x, [(0, 2)] + [(0, 0)] * (x.ndim - 1)), (outputs, batch))
    count = len(batch.valid)
    assert not full[1].valid[count:].any()
    found = method.loss(*full)
    assert_close(take(found, slice(0, count)), method.loss(outputs, batch))
    assert_finite(found)
    # The step leaves their losses out of the sum, by `where`; the gradient must survive that.
    slope = jax.grad(lambda outputs: method.loss(outputs, full[1])[0][:count].sum())(full[0])
    assert_finite(slope)
    np.testing.assert_array_equal(slope.logprobs[count:], 0.0)


@every
def test_nan_in_what_is_not_declared_changes_nothing(cls):
    method, outputs, batch = case(cls)
    needs = method.needs()
    scored = needs.reward or SCORES & {f.name for f in dataclasses.fields(needs.record)}
    read = {
        "ref_logprobs": needs.reference,
        "old_logprobs": needs.sampling is not None,
        "old_values": needs.head == "value",
        "scores": scored,
        "entropy": "entropy" in needs.outputs,
        "values": needs.head == "value",
        "rewards": needs.head == "reward",
        "attributes": needs.head == "reward",
    }

    def poison(part):
        names = [name for name in part._fields if not read.get(name, True)]
        return part._replace(**{n: jnp.full_like(getattr(part, n), jnp.nan) for n in names})

    found, poisoned = (
        method.loss(*x) for x in ((outputs, batch), (poison(outputs), poison(batch)))
    )
    jax.tree.map(np.testing.assert_array_equal, poisoned, found)
    optional = ("ref_logprobs", "old_logprobs", "old_values", "attributes")
    absent = {n: None for n in optional if not read[n]}
    jax.tree.map(np.testing.assert_array_equal,
                 method.loss(outputs, batch._replace(**absent)), found)  # fmt: skip


@every
def test_nan_off_the_mask_changes_neither_losses_nor_gradients(cls):
    method, outputs, batch = case(cls)

    def poison(part):
        return jax.tree.map(
            lambda x: (
                jnp.where(batch.mask, x, jnp.nan)
                if x.shape == batch.mask.shape and jnp.issubdtype(x.dtype, jnp.floating)
                else x
            ),
            part,
        )

    found = [method.loss(*x) for x in ((poison(outputs), poison(batch)), (outputs, batch))]
    jax.tree.map(np.testing.assert_array_equal, *found)
    slopes = [gradient(method, *x) for x in ((poison(outputs), poison(batch)), (outputs, batch))]
    assert_finite(slopes[0].logprobs)
    np.testing.assert_array_equal(slopes[0].logprobs, slopes[1].logprobs)


@every
def test_gradients_stay_finite_with_ties_and_a_wholly_masked_row(cls):
    method, outputs, batch = case(cls)
    logprobs = outputs.logprobs.at[1].set(-0.5).at[2].set(0.0)  # a tie; certainty
    scores = batch.scores.at[1].set(batch.scores[1, 0])
    mask = batch.mask.at[3].set(False).at[4, 0].set(False)
    given = batch._replace(scores=scores, mask=mask)
    tied = outputs._replace(logprobs=logprobs)
    assert_finite(method.loss(tied, given))
    slope = gradient(method, tied, given)
    assert_finite(slope)
    np.testing.assert_array_equal(slope.logprobs[~mask], 0.0)


@every
def test_gradients_stay_finite_at_log_ratios_of_200(cls):
    method, outputs, batch = case(cls)
    share = 200.0 / batch.mask.sum(axis=-1, keepdims=True)  # of each token of a response
    for policy, ref in ((-share, 0.0 * share), (0.0 * share, -share)):
        # The first response of every group is far from the reference, one way or the other.
        far, far_ref = (
            x.at[:, :1].set(jnp.where(batch.mask, to, 0.0)[:, :1])
            for x, to in ((outputs.logprobs, policy), (batch.ref_logprobs, ref))
        )
        given = batch._replace(ref_logprobs=far_ref)
        ratio = jnp.where(batch.mask, far - far_ref, 0.0).sum(axis=-1)[:, 0]
        np.testing.assert_allclose(jnp.abs(ratio), 200.0, rtol=1e-5)
        assert_finite(method.loss(outputs._replace(logprobs=far), given))
        assert_finite(gradient(method, outputs._replace(logprobs=far), given))


@every
def test_only_the_outputs_get_a_gradient(cls):
    method, outputs, batch = case(cls)

    def loss(ref_logprobs, old_logprobs, scores):
        given = batch._replace(ref_logprobs=ref_logprobs, old_logprobs=old_logprobs, scores=scores)
        return mean_loss(method, outputs, given)

    slopes = jax.grad(loss, argnums=(0, 1, 2))(batch.ref_logprobs, batch.old_logprobs, batch.scores)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0.0), slopes)


@every
def test_what_stands_in_a_sample_that_is_not_valid_changes_nothing(cls):
    if made(cls).needs().sampling is None:
        return  # data have no responses that are not valid beside others that are

    def found(junk):
        method, outputs, batch = case(cls, invalid=(2, -1), junk=junk)
        out = ~batch.valid
        logprobs = jnp.where(out[..., None] & batch.mask, -1.0 - abs(junk), outputs.logprobs)
        outputs = outputs._replace(logprobs=logprobs)
        slope = gradient(method, outputs, batch).logprobs
        np.testing.assert_array_equal(jnp.where(out[..., None], slope, 0.0), 0.0)
        return method.loss(outputs, batch), slope

    jax.tree.map(np.testing.assert_array_equal, found(1e4), found(-3.0))


@every
def test_a_few_updates_lower_the_mean_loss(cls):
    method, outputs, batch = case(cls)

    def loss(free):  # log-probabilities can be any number up to 0, the outputs of a head any
        made = {n: -jax.nn.softplus(x) if n == "logprobs" else x for n, x in free.items()}
        return mean_loss(method, outputs._replace(**made), batch)

    names = ("logprobs", "values", "rewards", "attributes")
    free = {name: jnp.zeros_like(getattr(outputs, name)) for name in names}
    before = loss(free)
    # In units of the first slope: a constant factor, such as one over a length, is no part of it.
    unit = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.grad(loss)(free).values()))
    step = jax.jit(
        lambda free: jax.tree.map(lambda x, d: x - 0.1 * d / unit, free, jax.grad(loss)(free))
    )
    for _ in range(40):
        free = step(free)
    assert loss(free) < before - 0.1 * unit  # the first step alone brings about as much
