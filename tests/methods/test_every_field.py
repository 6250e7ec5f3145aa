"""Every field of every method does something. A new field is tested by being a field.

Where nothing on this file's batch tells a field from its default, it stands in `ELSEWHERE` with the
test that does.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax import methods
from alignax.core.method import Sampling
from tests.method_cases import RECORDS, case

# The fields of a method that say how it samples: `Needs.sampling` has them by the same names.
DRAWN = {field.name for field in dataclasses.fields(Sampling)}
# Other values for fields whose default suggests none, and what a field has no part without.
OTHERS = {
    ("AttributeRewardModel", "attributes"): ("wit", "depth"),  # by alphabet, where not given
    ("AttributeRewardModel", "lowest_rating"): (0.0, 0.0),
    ("AttributeRewardModel", "highest_rating"): (4.0, 4.0),
    ("Curriculum", "hard_gap"): 0.5,
    ("DAPO", "max_length"): 3,
    ("DAPO", "clip_high"): 1.0,
    ("DPO", "nll_weight"): 0.5,
    ("DecisionTransformer", "mean"): 1.0,
    ("DecisionTransformer", "deviation"): 2.0,
    ("PPO", "dual_clip"): 1.5,
    ("PRO", "deviation"): 2.0,
    ("ReMax", "clip"): 0.5,
    ("RLOO", "clip"): 0.5,
    ("RewardWeighted", "mean"): 1.0,
    ("RewardWeighted", "deviation"): 2.0,
    ("SteerLM", "attributes"): ("wit", "depth"),
    ("SteerLM", "target"): (1.0, 2.0),
}
WITH = {
    ("DAPO", "buffer"): {"max_length": 5},
    # The one record of these methods is the mean of its kind.
    ("DecisionTransformer", "deviation"): {"mean": 0.0},
    ("RewardWeighted", "deviation"): {"mean": 0.0},
}
ELSEWHERE = {
    # They decide which responses are left out, of many: test_offline_rl.py.
    ("Filtering", "keep"),
    ("Filtering", "lowest"),
}


def others(cls, field):
    """Values that the field may have in place of its default."""
    if (cls.__name__, field.name) in OTHERS:
        return [OTHERS[cls.__name__, field.name]]
    hint, default = typing.get_type_hints(cls)[field.name], field.default
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int):
        return [default + 1]
    if isinstance(default, float):
        return [default / 2 if default else 0.25]
    assert typing.get_origin(hint) is typing.Literal, "name a value in OTHERS"
    return [value for value in typing.get_args(hint) if value != default]


FIELDS = [
    pytest.param(cls, field.name, value, id=f"{cls.__name__}-{field.name}-{value}")
    for cls in methods.ALL
    for field in dataclasses.fields(cls)
    if (cls.__name__, field.name) not in ELSEWHERE
    for value in others(cls, field)
]


@pytest.mark.parametrize(("cls", "name", "value"), [x for x in FIELDS if x.values[1] in DRAWN])
def test_how_to_sample_is_passed_on(cls, name, value):
    sampling = cls(**{name: value}).needs().sampling
    if sampling is None:
        assert (cls.__name__, name) == ("PRO", "temperature")  # of its loss: it draws nothing
        return
    assert getattr(sampling, name) == value


def seen(cls, settings):
    """What a run sees of a method: what it needs, how it reads and asks, its samples, its loss.

    Not metrics: a field that the loss forgets must not pass because a metric shows it.
    """
    method, outputs, batch = case(cls, **settings)
    needs = method.needs()
    if needs.sampling is None:  # scores of a data set, which are not alike
        scores = 4.0 * np.random.default_rng(1).standard_normal(batch.scores.shape)
        batch = batch._replace(scores=jnp.asarray(scores, jnp.float32))
    if needs.sampling is not None:  # `longest` is said of the loss, and shows no part in it
        sampling = dataclasses.replace(needs.sampling, longest=None)
        needs = dataclasses.replace(needs, sampling=sampling)
    told = needs, method.group(RECORDS[needs.record]), method.ask("p")
    return told, jax.tree.map(np.asarray, (batch, method.loss(outputs, batch)[0]))


def same(one, other):
    if one[0] != other[0] or jax.tree.structure(one[1]) != jax.tree.structure(other[1]):
        return False
    pairs = zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


@functools.cache
def by_default(cls):
    return seen(cls, {})


@pytest.mark.parametrize(("cls", "name", "value"), [x for x in FIELDS if x.values[1] not in DRAWN])
def test_has_a_part_in_what_is_needed_read_or_learnt(cls, name, value):
    settings = WITH.get((cls.__name__, name), {})
    default = seen(cls, settings) if settings else by_default(cls)
    assert not same(seen(cls, settings | {name: value}), default)
