"""Rows of tokens as this library takes them: k responses sharing a prompt, or each behind its own.

The second form is the baseline for the first: the same model, packing, kernels and loss, and the
prompt computed k times. It costs the library no switch: texts of one response each go through the
model, and the places of their log-probabilities are written anew as [b, k, r].
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.types import Batch, Layout, Outputs, Params
from alignax.data.plan import Lengths, Plan, make_plan
from alignax.data.tokenise import Example
from alignax.train.step import ModelFn

Arrays = tuple[Batch, Layout]


class Rows:
    """Rows of tokens as a data set."""

    def __init__(self, rows: Sequence[dict]):
        self._rows = rows
        responses = np.array([[len(r) for r in row["responses"]] for row in rows])
        prompts = np.array([len(row["prompt"]) for row in rows])
        self.lengths = Lengths(prompts, responses, responses)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        responses = np.concatenate([np.array(r, np.int32) for r in row["responses"]])
        return Example(
            prompt=np.array(row["prompt"], np.int32),
            responses=responses,
            response_lengths=np.array([len(r) for r in row["responses"]], np.int32),
            mask=np.ones(len(responses), bool),
            scores=np.array(row["scores"], np.float32),
            origin=str(index),
        )


def concatenated(rows: Sequence[dict], *, everywhere: bool) -> list[dict]:
    """Each response behind a copy of its prompt, as a row of its own.

    Args:
        everywhere: the prompt's positions meet the vocabulary too: all but its first token is
            counted with the response.
    """
    made = []
    for row in rows:
        for response, score in zip(row["responses"], row["scores"], strict=True):
            kept = 1 if everywhere else len(row["prompt"])
            text = row["prompt"] + response
            made.append({"prompt": text[:kept], "responses": [text[kept:]], "scores": [score]})
    return made


def regrouped(arrays: Arrays, groups: np.ndarray, responses: int, prompts: Sequence[int]) -> Arrays:
    """The arrays of texts, one response each, as a batch of prompts with k responses.

    Args:
        groups: which text each place of the batch holds, counted within the step.
        prompts: tokens at the begin of each text that are its prompt's, and no loss counts.
    """
    batch, layout = jax.tree.map(lambda x: x[0], arrays)
    order, width = np.argsort(groups), batch.mask.shape[-1]
    slot = groups[layout.slot // width] * width + layout.slot % width
    batch = Batch(*(None if x is None else x[order].copy() for x in batch))
    for mask, length in zip(batch.mask, prompts, strict=True):
        mask[0, :length] = False
    several = lambda x: x.reshape(-1, responses, *x.shape[2:])  # noqa: E731
    batch = batch._replace(
        prompts=batch.prompts[::responses],
        prompt_lengths=batch.prompt_lengths[::responses],
        **{
            name: several(getattr(batch, name)) for name in ("responses", "mask", "scores", "valid")
        },
    )
    layout = layout._replace(slot=np.where(layout.slot < 0, -1, slot))
    return jax.tree.map(lambda x: x[None], (batch, layout))


def in_order(rows: Rows, size: int, shards: int = 1) -> Plan:
    """The rows as they come, so many to a step: every program meets the same ones together."""
    order = np.arange(len(rows)).reshape(-1, size)
    return make_plan(rows.lengths, batch_size=size, order=order, shards=shards)


def prepared(
    raw: Sequence[dict], size: int, form: str, shards: int
) -> tuple[Rows, Plan, Callable[[Arrays, int], Arrays]]:
    """The data set of a form, its plan, and what is to be done with the arrays of a step.

    Args:
        size: prompts in a step.
        form: "shared"; "concatenated"; or "everywhere", concatenated, and the prompt's positions
            meet the vocabulary too, as in the usual loop.
    """
    if form == "shared":
        rows = Rows(raw)
        return rows, in_order(rows, size, shards), lambda arrays, index: arrays
    k, everywhere = len(raw[0]["responses"]), form == "everywhere"
    rows = Rows(concatenated(raw, everywhere=everywhere))
    plan = in_order(rows, size * k, shards)
    prompts = [len(row["prompt"]) - 1 if everywhere else 0 for row in raw for _ in range(k)]

    def arrange(arrays: Arrays, index: int) -> Arrays:
        first = index * size * k
        groups = plan.step(index).group[0] - first
        return regrouped(arrays, groups, k, prompts[first : first + size * k])

    return rows, plan, arrange


def masked_outputs(model_fn: ModelFn, params: Params, batch: Batch, layout: Layout) -> Outputs:
    """What the model says of the tokens that a loss counts, and 0 of others that were scored."""
    found = model_fn(params, batch, layout)
    return Outputs(logprobs=jnp.where(batch.mask, found.logprobs, 0.0))
