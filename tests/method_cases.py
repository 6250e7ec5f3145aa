"""A record of each type, and a batch for every method of `methods.ALL`."""

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.method import Method
from alignax.core.records import (
    Attributed,
    Demonstration,
    Labelled,
    Preference,
    Prompt,
    Ranking,
    Scored,
)
from alignax.core.types import Batch, Outputs

RECORDS = {
    Demonstration: Demonstration(prompt="p", response="only", origin="f:3"),
    Preference: Preference(prompt="p", chosen="first", rejected="second", margin=2.0, origin="f:3"),
    Ranking: Ranking(
        prompt="p", responses=("second", "first", "third"), scores=(0.5, 1.0, -1.0), origin="f:3"
    ),
    Scored: Scored(prompt="p", response="only", score=0.5, origin="f:3"),
    Attributed: Attributed(
        prompt="p", response="only", attributes={"wit": 3.0, "depth": 1.0}, origin="f:3"
    ),
    Labelled: Labelled(
        prompt="p", response="only", desirable=True, unrelated="other", origin="f:3"
    ),
    Prompt: Prompt(prompt="p", columns={"answer": "4"}, origin="f:3"),
}
# What a record says of its responses, the best first.
RANKED = {
    Demonstration: ("only",),
    Preference: ("first", "second"),
    Ranking: ("first", "second", "third"),
    Scored: ("only",),
    Attributed: ("only",),
    Labelled: ("only", "other"),
    Prompt: (),
}

PROMPTS, TOKENS = 5, 6


def made(cls, **settings) -> Method:
    """The method as a run has it: with what it takes from its training data."""
    record = cls().needs().record
    assert record in RECORDS, f"{record.__name__}: add an example to RECORDS and to RANKED"
    return cls(**settings).fit([RECORDS[record]])


def case(cls, *, seed=0, invalid=(), junk=0.0, **settings) -> tuple[Method, Outputs, Batch]:
    """A method, and a batch of prompts whose responses differ in length.

    One response may be invalid; junk is then its score.
    """
    method = made(cls, **settings)
    group = method.group(RECORDS[method.needs().record])
    scores, names = group.scores, method.needs().score_names
    draw = np.random.default_rng(seed)
    if sampling := method.needs().sampling:  # its scores are rewards of what is sampled
        scores = draw.standard_normal((PROMPTS, sampling.num_samples))
    b, k, r = PROMPTS, np.shape(scores)[-1], TOKENS
    mask = np.arange(r) < draw.integers(1, r + 1, (b, k, 1))
    ref, old = (-draw.exponential(1.5, (b, k, r)) * mask for _ in range(2))
    as_array = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    batch = Batch(
        prompts=jnp.asarray(draw.integers(0, 9, (b, 3)), jnp.int32),
        prompt_lengths=jnp.full(b, 3, jnp.int32),
        responses=jnp.asarray(draw.integers(0, 9, (b, k, r)) * mask, jnp.int32),
        mask=jnp.asarray(mask),
        scores=jnp.broadcast_to(as_array(np.atleast_2d(scores)), (b, k)),
        valid=jnp.ones((b, k), bool),
        ref_logprobs=as_array(ref),
        old_logprobs=as_array(old),
        old_values=as_array(draw.standard_normal((b, k, r)) * mask),
        attributes=as_array(draw.standard_normal((b, k, len(names)))),
    )
    if invalid:
        valid, scores = batch.valid.at[invalid].set(False), batch.scores.at[invalid].set(junk)
        batch = batch._replace(valid=valid, scores=scores)
    batch = method.select(jax.random.key(seed), batch)
    (b, k, r), mask = batch.mask.shape, np.asarray(batch.mask)
    outputs = Outputs(
        logprobs=as_array(-draw.exponential(1.5, (b, k, r)) * mask),
        entropy=as_array(draw.exponential(1.0, (b, k, r)) * mask),
        values=as_array(draw.standard_normal((b, k, r)) * mask),
        rewards=as_array(draw.standard_normal((b, k))),
        attributes=as_array(draw.standard_normal((b, k, len(names)))),
    )
    return method, outputs, batch
