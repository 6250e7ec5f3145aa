"""Batches in rows: every token, mask and log-prob at its place, and an exact position."""

import json

import jax
import numpy as np
import pytest

from alignax.data.pipeline import Batches, TokenArrays, build_step
from alignax.data.plan import Lengths, make_plan
from alignax.data.tokenise import Example


class Examples(list):
    """Examples in memory, with their lengths."""

    @property
    def lengths(self) -> Lengths:
        prompt = np.array([len(e.prompt) for e in self])
        response = np.stack([e.response_lengths for e in self]).astype(int)
        scored = np.array([[mask.sum() for _, mask in e.split()] for e in self])
        return Lengths(prompt, response, scored)


def example(prompt, *responses, masks=None) -> Example:
    masks = masks or [[1] * len(r) for r in responses]
    return Example(
        prompt=np.array(prompt, np.int32),
        responses=np.concatenate(responses).astype(np.int32),
        response_lengths=np.array([len(r) for r in responses], np.int32),
        mask=np.concatenate(masks).astype(bool),
        scores=np.arange(len(responses), 0, -1).astype(np.float32),
        origin="here:1",
    )


def random_examples(count: int) -> Examples:
    draw = np.random.default_rng(0)
    size = lambda: draw.integers(1, 50, draw.integers(1, 9))  # noqa: E731
    return Examples(example(size(), size(), size()) for _ in range(count))


def test_the_worked_example_of_the_docstring():
    p, q, a, b, c = 11, 12, 21, 22, 31
    groups = Examples([example([p, q], [a, b], [c])])
    plan = make_plan(groups.lengths, batch_size=1, align=8)
    batch, layout = jax.tree.map(lambda x: x[0], build_step(groups, plan, 0))
    assert layout.tokens.tolist() == [[p, q, a, b, c, 0, 0, 0]]
    assert layout.group.tolist() == [[0, 0, 0, 0, 0, -1, -1, -1]]
    assert layout.response.tolist() == [[0, 0, 1, 1, 2, 0, 0, 0]]
    assert layout.position.tolist() == [[0, 1, 2, 3, 2, 0, 0, 0]]
    assert layout.source[0, :3].tolist() == [1, 2, 1]
    assert layout.target[0, :3].tolist() == [a, b, c]
    assert layout.slot[0].tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
    assert batch.responses.tolist() == [[[a, b], [c, 0]]]
    assert batch.mask.tolist() == [[[True, True], [True, False]]]
    assert batch.scores.tolist() == [[2.0, 1.0]]
    assert batch.valid.tolist() == [[True, True]]


def test_tokens_that_are_not_scored_have_no_source():
    # Response: assistant A1 A2, user U, assistant A3. The source of A3 is U, one before it.
    groups = Examples([example([1, 2, 3], [4, 5, 6, 7], masks=[[1, 1, 0, 1]])])
    plan = make_plan(groups.lengths, batch_size=1, align=8)
    _, layout = jax.tree.map(lambda x: x[0], build_step(groups, plan, 0))
    assert layout.source[0, :3].tolist() == [2, 3, 5]
    assert layout.target[0, :3].tolist() == [4, 5, 7]
    assert layout.slot[0, :4].tolist() == [0, 1, 3, -1]


@pytest.mark.parametrize("shards", [1, 2])
def test_every_target_stands_one_place_after_its_source_or_opens_a_response(shards):
    groups = random_examples(24)
    plan = make_plan(
        groups.lengths, batch_size=8, accumulation=2, num_steps=6, seed=0, shards=shards
    )
    for index in range(len(plan)):
        batch, layout = build_step(groups, plan, index)
        for i in range(2):
            flat = {name: getattr(layout, name)[i].reshape(shards, -1) for name in
                    ("tokens", "group", "response", "position")}  # fmt: skip
            responses = batch.responses[i].reshape(-1)
            for shard in range(shards):
                for source, target, slot in zip(
                    layout.source[i, shard], layout.target[i, shard], layout.slot[i, shard],
                    strict=True,
                ):  # fmt: skip
                    if slot < 0:
                        continue
                    assert responses[slot] == target
                    b, rest = divmod(slot, batch.mask[i, 0].size)
                    k, r = divmod(rest, plan.shape.response)
                    assert flat["group"][shard, source] == b
                    # What predicts token r of a response stands r - 1 tokens after the prompt.
                    at = batch.prompt_lengths[i, b] + r - 1
                    assert flat["position"][shard, source] == at
                    assert flat["response"][shard, source] == (k + 1 if r else 0)
            assert (layout.slot[i] >= 0).sum() == batch.mask[i].sum()


def test_reference_numbers_land_on_their_own_tokens():
    groups = random_examples(10)
    table = TokenArrays.empty(groups.lengths)
    for i, e in enumerate(groups):  # each number names its token, negated like a log-probability
        table.values[table.starts[i] : table.starts[i] + len(e.responses)] = -e.responses
    plan = make_plan(groups.lengths, batch_size=5, num_steps=4, seed=0)
    for index in range(4):
        batch, _ = build_step(groups, plan, index, table)
        np.testing.assert_array_equal(batch.ref_logprobs, -batch.responses.astype(np.float32))


def test_reading_goes_on_from_a_position_that_went_through_json():
    groups = random_examples(30)
    plan = make_plan(groups.lengths, batch_size=5, num_steps=12, seed=0)
    whole = list(Batches(groups, plan))
    assert len(whole) == 12
    reader = Batches(groups, plan)
    for _ in range(5):
        next(reader)
    position = json.loads(json.dumps(reader.position()))
    again = Batches(groups, plan)
    again.restore(position)
    rest = list(again)
    assert len(rest) == 7
    for found, expected in zip(rest, whole[5:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
