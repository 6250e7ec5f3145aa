"""From prepared groups and a plan to batches in rows, read ahead, with an exact position.

The position is the number of the next step: everything else follows from the plan.
"""

import dataclasses
import operator
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import grain
import numpy as np
from jaxtyping import Float, Int

from alignax.core.errors import BadInput
from alignax.core.types import Batch, Layout
from alignax.data.plan import Lengths, Placement, Plan
from alignax.data.row_shapes import Shape
from alignax.data.tokenise import Example

READ_AHEAD = 4  # steps


@runtime_checkable
class Groups(Protocol):
    """Tokenised groups with random access, such as `builder.Prepared`."""

    @property
    def lengths(self) -> Lengths:
        """Token counts of all groups."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class InMemory:
    """Groups that are in memory, as those of sampled responses are."""

    def __init__(self, examples: Sequence[Example]):
        self.examples, self.lengths = examples, token_counts(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self.examples[operator.index(index)]


def token_counts(examples: Sequence[Example]) -> Lengths:
    """Lengths of groups; a response that is not there counts 0."""
    most = max(len(example.response_lengths) for example in examples)
    shape = (len(examples), most)
    response, scored = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for i, example in enumerate(examples):
        for j, (tokens, mask) in enumerate(example.split()):
            response[i, j], scored[i, j] = len(tokens), mask.sum()
    prompt = np.array([len(example.prompt) for example in examples], np.int32)
    return Lengths(prompt, response, scored)


@dataclasses.dataclass(frozen=True)
class TokenArrays:
    """Numbers for every response token of a data set, such as reference log-probabilities.

    Fields:
        values: of all groups end to end; a group's responses end to end.
        starts: where each group begins.
    """

    values: Float[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " g"]

    @classmethod
    def empty(cls, lengths: Lengths) -> "TokenArrays":
        """Zeros, in the layout of a data set with these lengths."""
        counts = lengths.response.sum(axis=1)
        starts = np.cumsum(counts) - counts
        return cls(np.zeros(int(counts.sum()), np.float32), starts)

    def __getitem__(self, group: int) -> Float[np.ndarray, " tokens"]:
        return self.values[self.starts[group] :]


Numbers = Mapping[str, TokenArrays]  # by the name of a field of the batch
NO_NUMBERS: Numbers = {}


class Drawn(NamedTuple):
    """What a feed says of a step for which responses were drawn. Empty for a data set.

    Fields:
        metrics: of the drawing, such as the mean reward.
        samples: prompts, completions and their rewards, to be kept and shown.
    """

    metrics: Mapping[str, float] = {}
    samples: Sequence[Mapping[str, Any]] = ()


class DrawFailed(BadInput):
    """A feed cannot give the next update: in every process, and its position is as it was."""

    @classmethod
    def of(cls, why: BadInput) -> "DrawFailed":
        """What `why` says, as a failure to draw, with the cause that it had."""
        made = cls(why.expected, why.got, why.remedy, where=why.where)
        made.__cause__ = why.__cause__
        return made


def build_step(
    groups: Groups,
    plan: Plan,
    index: int,
    numbers: Numbers = NO_NUMBERS,
    shards: Container[int] | None = None,
) -> tuple[Batch, Layout]:
    """The arrays of one step; every one has a leading axis of micro-batches.

    A response without tokens is not valid. `numbers` become the batch's fields of their names.
    Only the groups of `shards` are read and laid down, where these are given: of several processes
    each builds what lies on its own devices.

    Example: one group, prompt `p q`, responses `a b` and `c`, in a row of 8. The log-probability
    of each response token comes from the position before it, and both first tokens from `q`:

        tokens    p  q  a  b  c  .  .  .
        response  0  0  1  1  2  0  0  0
        position  0  1  2  3  2  0  0  0
        source    1  2  1               of the scored tokens a, b, c
        target    a  b  c
        slot      0  1  2               in [b, k, r] = [[[a b] [c .]]], flattened
    """
    return _laid_down(groups, plan.shape, plan.step(index), numbers, shards)


def build_steps(
    groups: Groups, plans: Sequence[Plan], index: int, numbers: Numbers = NO_NUMBERS
) -> tuple[Batch, Layout]:
    """`build_step` of several plans of one shape, at once, on an axis before all others."""
    parts = [plan.step(index) for plan in plans]
    joined = Placement(*(np.concatenate(x) for x in zip(*parts, strict=True)))

    def apart(step: Any) -> Any:
        return type(step)(
            *(None if x is None else x.reshape(len(plans), -1, *x.shape[1:]) for x in step)
        )

    batch, layout = _laid_down(groups, plans[0].shape, joined, numbers, None)
    return apart(batch), apart(layout)


def _laid_down(
    groups: Groups,
    shape: Shape,
    placement: Placement,
    numbers: Numbers,
    shards: Container[int] | None,
) -> tuple[Batch, Layout]:
    """All micro-batches at once: their groups, rows and shards are those of one large batch.

    Raises:
        ValueError: a group is longer than the plan has room for.
    """
    a, b, k, r = len(placement.group), shape.groups, shape.responses, shape.response
    batch, layout = _empty(shape, a, numbers, groups[0].attributes)
    room = shape.rows // shape.shards * shape.row_length  # tokens of a shard's rows, joined
    row = placement.row + shape.rows * np.arange(a)[:, None]
    begin = (row * shape.row_length + placement.offset).ravel()  # in all rows, joined
    here = placement.group.ravel() >= 0
    if shards is not None:
        here &= [first // room % shape.shards in shards for first in begin.tolist()]
    index = np.flatnonzero(here)
    begin, chosen = begin[index, None], placement.group.ravel()[index].tolist()
    examples = [groups[group] for group in chosen]
    if not examples:
        return batch, layout

    parts = _fill(batch, examples, index)
    prompt, there = parts[:, :1], parts[:, 1:] > 0
    ends = parts.sum(axis=1) + placement.offset.ravel()[index]
    if (ends > shape.row_length).any() or (parts[:, 1:] > r).any():
        raise ValueError(f"expected groups as long as the plan has them; got {parts.tolist()}")

    # --- All tokens of these groups end to end, and from there to their places, all at once.
    ids = np.concatenate([x for e in examples for x in (e.prompt, e.responses)])
    nth, which, sizes = np.arange(len(ids)), np.arange(1 + k), parts.ravel()
    starts = (np.cumsum(sizes) - sizes).reshape(parts.shape)
    each = lambda x: np.repeat(np.broadcast_to(x, parts.shape), sizes)  # noqa: E731
    place = nth + each(begin - starts[:, :1])
    layout.tokens.ravel()[place] = ids
    layout.group.ravel()[place] = each(index[:, None] % b)
    layout.response.ravel()[place] = each(which)
    layout.position.ravel()[place] = nth + each(prompt * (which > 0) - starts)

    answers = each(which > 0)
    slot = (nth + each((index[:, None] * k + which - 1) * r - starts))[answers]
    mask = np.concatenate([example.mask for example in examples])
    batch.responses.ravel()[slot] = ids[answers]
    batch.mask.ravel()[slot] = mask
    counts = parts[:, 1:].sum(axis=1).tolist()
    for name, values in numbers.items():
        found = [values[group][:count] for group, count in zip(chosen, counts, strict=True)]
        getattr(batch, name).ravel()[slot] = np.concatenate(found)

    # --- Those that are scored, by shard. The first of a response comes from the prompt's last.
    before = place - 1
    before[starts[:, 1:][there]] = np.broadcast_to(begin + prompt - 1, there.shape)[there]
    scored = np.flatnonzero(answers)[mask]
    shard = place[scored] // room
    by_shard = np.argsort(shard, kind="stable")
    scored, shard, slot = scored[by_shard], shard[by_shard], slot[mask][by_shard]
    into = shard, np.arange(len(scored)) - np.searchsorted(shard, shard)
    _flat(layout.source)[into] = before[scored] - shard * room
    _flat(layout.target)[into] = ids[scored]
    _flat(layout.slot)[into] = slot % (b * k * r)
    return batch, layout


def _empty(
    shape: Shape, a: int, numbers: Numbers, attributes: np.ndarray | None
) -> tuple[Batch, Layout]:
    """The arrays of `a` micro-batches without any group."""
    b, k, r = shape.groups, shape.responses, shape.response
    # Dictionaries first: the types say JAX arrays, and these are NumPy's until they are put.
    fields: dict[str, Any] = {
        "prompts": np.zeros((a, b, shape.prompt), np.int32),
        "prompt_lengths": np.ones((a, b), np.int32),
        "responses": np.zeros((a, b, k, r), np.int32),
        "mask": np.zeros((a, b, k, r), bool),
        "scores": np.zeros((a, b, k), np.float32),
        "valid": np.zeros((a, b, k), bool),
        **{name: np.zeros((a, b, k, r), np.float32) for name in numbers},
    }
    if attributes is not None:  # all groups have as many, or none has any
        fields["attributes"] = np.full((a, b, k, attributes.shape[1]), np.nan, np.float32)
    rows, scored = (a, shape.rows, shape.row_length), (a, shape.shards, shape.scored)
    lie: dict[str, Any] = {
        "tokens": np.zeros(rows, np.int32),
        "group": np.full(rows, -1, np.int32),
        "response": np.zeros(rows, np.int32),
        "position": np.zeros(rows, np.int32),
        "source": np.zeros(scored, np.int32),
        "target": np.zeros(scored, np.int32),
        "slot": np.full(scored, -1, np.int32),
    }
    return Batch(**fields), Layout(**lie)


def _fill(
    batch: Batch, examples: Sequence[Example], index: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "n parts"]:
    """Writes prompts and the numbers of groups; gives tokens of a prompt and of each response."""
    prompts, scores = _flat(batch.prompts), _flat(batch.scores)
    attributes = None if batch.attributes is None else _flat(batch.attributes)
    parts = np.zeros((len(index), 1 + scores.shape[1]), np.int64)
    for i, example, part in zip(index.tolist(), examples, parts, strict=True):
        part[0], count = len(example.prompt), len(example.response_lengths)
        part[1 : 1 + count] = example.response_lengths
        prompts[i, : part[0]] = example.prompt
        scores[i, :count] = example.scores
        if attributes is not None and example.attributes is not None:
            attributes[i, :count] = example.attributes
    _flat(batch.prompt_lengths)[index] = parts[:, 0]
    _flat(batch.valid)[index] = parts[:, 1:] > 0
    return parts


def _flat(x: Any) -> Any:
    """An array of all micro-batches' groups or shards, in the same memory."""
    return x.reshape(-1, *x.shape[2:])


class NothingStored:
    """A feed that can go on from any of its positions, and has no files to delete."""

    def missing(self, position: dict[str, Any]) -> str | None:
        """Nothing: a position says it all."""
        del position

    def keep(self, positions: Sequence[Mapping[str, Any]]) -> None:
        """Deletes nothing."""
        del positions


class Ahead(NothingStored):
    """Steps in order, made ahead of their use by Grain's threads.

    Args:
        make: the arrays of a step, from its number. count: of the steps.
    """

    def __init__(self, make: Callable[[int], Any], count: int):
        steps = grain.MapDataset.range(count).map(lambda index: make(int(index)))
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=READ_AHEAD)
        self._iterator = iter(steps.to_iter_dataset(options))

    def __iter__(self) -> "Ahead":
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def draw(self, params: Any) -> "tuple[Any, Drawn]":
        """The next step, as a feed gives it: it does not depend on the policy."""
        del params
        return next(self), Drawn()

    def position(self) -> dict[str, Any]:
        """Where the next step is, as JSON."""
        return self._iterator.get_state()

    def restore(self, position: dict[str, Any]) -> None:
        """Goes on from `position`."""
        self._iterator.set_state(position)


class Batches(Ahead):
    """The steps of a plan."""

    def __init__(
        self,
        groups: Groups,
        plan: Plan,
        *,
        numbers: Numbers = NO_NUMBERS,
        shards: Container[int] | None = None,
        transform: Callable[[tuple[Batch, Layout]], Any] = lambda step: step,
    ):
        super().__init__(
            lambda index: transform(build_step(groups, plan, index, numbers, shards)), len(plan)
        )
