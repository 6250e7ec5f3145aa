"""What the reference policy thinks of a data set: computed once, kept on disk, read as data.

The log-probabilities come from the function and the precision that the update uses, so that
policy and reference agree to rounding while their parameters are equal.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from alignax.core import drafts, processes
from alignax.core.errors import BadInput
from alignax.core.memory import give_back
from alignax.core.types import Batch, Layout, Params
from alignax.data.ladder import widened
from alignax.data.pipeline import Batches, Groups, TokenArrays, build_step
from alignax.data.plan import Lengths, Plan, make_plan
from alignax.data.tokenise import Example
from alignax.train.step import ModelFn


class Part:
    """Some groups of a data set, as a data set."""

    def __init__(self, groups: Groups, chosen: Int[np.ndarray, " g"]):
        self._groups, self.chosen = groups, chosen
        self._lengths = Lengths(*(x[chosen] for x in groups.lengths))

    @property
    def lengths(self) -> Lengths:
        """Token counts of the chosen groups."""
        return self._lengths

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Example:
        return self._groups[int(self.chosen[index])]


def compute(
    model: ModelFn,
    params: Params,
    groups: Groups,
    plan: Plan,
    *,
    put: Callable[[Any], Any] = lambda arrays: arrays,
    progress: Callable[[Iterator[Any], int], Iterator[Any]] = lambda steps, total: steps,
) -> TokenArrays:
    """Log-probabilities of every scored token of every group, in nats.

    Args:
        plan: one pass over all groups, without micro-batches.
        put: takes a step's arrays to the devices.
        progress: wraps the iterator of `total` steps, to show how far it has come.
    """
    table = TokenArrays.empty(groups.lengths)
    steps = progress(iter(Batches(groups, plan)), len(plan))
    for index, (batch, layout) in enumerate(steps):
        found = processes.fetch(_numbers(model, params, *put((batch, layout)))[0])
        for i, group in enumerate(plan.step(index).group[0]):
            if group < 0:
                continue
            start = int(table.starts[group])
            for j, length in enumerate(groups.lengths.response[group]):
                table.values[start : start + length] = found[i, j, :length]
                start += length
    give_back()  # its temporary arrays: what comes next has others
    return table


class Looking:
    """The model's numbers for groups that come again and again, by one compiled program or a few.

    Args:
        model: as the update calls it.
        batch_size: groups at a time.
        prompt, response: the longest there can be, in tokens.
    """

    def __init__(
        self,
        model: ModelFn,
        *,
        batch_size: int,
        shards: int,
        prompt: int,
        response: int,
        put: Callable[[Any], Any] = lambda arrays: arrays,
    ):
        self._size, self._shards, self._put = batch_size, shards, put
        self._prompt, self._response, self._model = prompt, response, model

    def __call__(
        self, params: Params, groups: Groups
    ) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        """Log-probabilities of each group's tokens, its responses end to end; and values."""
        plan = make_plan(groups.lengths, batch_size=self._size, shards=self._shards)
        plan = widened(plan, prompt=self._prompt, response=self._response)
        found: tuple[dict[int, np.ndarray], dict[int, np.ndarray]] = ({}, {})
        for index in range(len(plan)):
            arrays = self._put(build_step(groups, plan, index))
            tables = processes.fetch(_numbers(self._model, params, *arrays))
            for i, group in enumerate(plan.step(index).group[0].tolist()):
                if group < 0:
                    continue
                lengths = groups.lengths.response[group].tolist()
                for table, rows in zip(tables, found, strict=True):
                    if table is not None:
                        parts = [table[i, j, :length] for j, length in enumerate(lengths)]
                        rows[group] = np.concatenate(parts)
        logprobs, values = ([rows[i] for i in range(len(groups))] if rows else None
                            for rows in found)  # fmt: skip
        assert logprobs is not None
        return logprobs, values


@functools.partial(jax.jit, static_argnums=0)
def _numbers(model: ModelFn, params: Params, batch: Batch, layout: Layout) -> tuple[Any, Any]:
    """Log-probabilities and values; compiled once for all that is equal to the model."""
    batch, layout = jax.tree.map(lambda x: x[0], (batch, layout))
    found = model(params, batch, layout)
    return found.logprobs, found.values


def spread(table: TokenArrays, part: Part, lengths: Lengths) -> TokenArrays:
    """The numbers of a part at their places in the whole data set; 0 elsewhere."""
    whole = TokenArrays.empty(lengths)
    counts = part.lengths.response.sum(axis=1)
    for index, group in enumerate(part.chosen):
        start, count = whole.starts[group], counts[index]
        whole.values[start : start + count] = table[index][:count]
    return whole


def _read(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The numbers of a file; None where it is not there, or not of this shape."""
    try:
        values = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return values if values.shape == shape else None


def cached(
    directory: pathlib.Path, key: tuple[str, ...], groups: Groups, make: Callable[[], TokenArrays]
) -> tuple[TokenArrays, bool]:
    """The table for this key, made now or read from disk; and whether it was on disk.

    Args:
        key: everything that the numbers depend on: the fingerprints of model and data, precision.
    """
    name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:24]
    path = directory / f"ref_logprobs-{name}.npy"
    drafts.clear(directory)
    empty = TokenArrays.empty(groups.lengths)
    values = _read(path, empty.values.shape)
    # Computing is everybody's work, so it is done unless all have found it.
    if processes.agree(values is not None):
        assert values is not None
        return TokenArrays(values, empty.starts), True
    table = make()
    try:
        with drafts.draft(directory) as draft:
            np.save(draft / path.name, table.values)
            (draft / path.name).replace(path)
    except OSError as error:
        raise BadInput(
            "a cache directory that can be written",
            str(error),
            "Free some space, or name another directory with data.cache_dir.",
            where=str(directory),
        ) from error
    return table, False
