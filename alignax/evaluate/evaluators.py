"""Evaluators: held-out metrics of the method itself, and samples measured against the reference.

Each looks at a set of prompts and gives one number a prompt for every name, so that every mean
has an interval.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.method import Method
from alignax.core.types import Batch, Layout, Outputs, Params
from alignax.data.pipeline import Batches, Groups, TokenArrays
from alignax.data.plan import Plan
from alignax.evaluate.stats import Estimate, estimate
from alignax.generate.sampler import Sampler, sample
from alignax.models.outputs import score_responses
from alignax.models.transformer import Decoder
from alignax.train.step import ModelFn

SHARES = ("accuracies", "ended")  # names whose values are 0 or 1
Progress = Callable[[Iterator[Any], int], Iterator[Any]]


def silent(steps: Iterator[Any], total: int) -> Iterator[Any]:
    """No progress bar."""
    del total
    return steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The method's loss and metrics on groups that it does not learn from.

    Fields:
        plan: one pass over all groups, without micro-batches.
        ref_logprobs: of these groups, where the method needs them.
        put: takes a step's arrays to the devices.
    """

    method: Method
    model: ModelFn
    groups: Groups
    plan: Plan
    ref_logprobs: TokenArrays | None
    put: Callable[[Any], Any] = lambda arrays: arrays

    def __post_init__(self) -> None:
        @jax.jit
        def measure(params: Params, batch: Batch, layout: Layout) -> dict[str, jax.Array]:
            batch, layout = jax.tree.map(lambda x: x[0], (batch, layout))
            if params is None and batch.ref_logprobs is not None:
                outputs = Outputs(logprobs=batch.ref_logprobs)
            else:
                outputs = self.model(params, batch, layout)
            loss, metrics = self.method.loss(outputs, batch)
            return {"loss": loss, **metrics}

        object.__setattr__(self, "_measure", measure)  # compiled once, however often called

    def __call__(
        self, params: Params | None, *, progress: Progress = silent
    ) -> dict[str, Estimate]:
        """Estimates under the names `eval_*`; the loss is a mean over what `mean_over` says.

        Args:
            params: None for the reference itself, whose log-probabilities are there already.
        """
        values: dict[str, list[np.ndarray]] = {}
        tokens = 0
        batches = iter(Batches(self.groups, self.plan, ref_logprobs=self.ref_logprobs))
        for batch, layout in progress(batches, len(self.plan)):
            found = jax.device_get(self._measure(params, *self.put((batch, layout))))  # type: ignore[attr-defined]
            present = batch.valid[0].any(axis=-1)
            tokens += int((batch.mask[0] & batch.valid[0][..., None]).sum())
            for name, x in found.items():
                values.setdefault(name, []).append(np.asarray(x)[present])
        joined = {f"eval_{name}": np.concatenate(parts) for name, parts in values.items()}
        if self.method.needs().mean_over == "tokens":
            # Each prompt's summed loss over the mean number of tokens: their mean is the loss.
            joined["eval_loss"] = joined["eval_loss"] * len(joined["eval_loss"]) / max(tokens, 1)
        return {name: estimate(x, share=name.endswith(SHARES)) for name, x in joined.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Sampled responses to a set of prompts, one list of token ids for each prompt and sample."""

    tokens: list[list[list[int]]]
    ended: np.ndarray
    estimates: dict[str, Estimate]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """Responses that the policy gives, and how far it has moved from the reference.

    Fields:
        prompts: token ids of each prompt.
        end_ids: tokens that end a response.
        batch_size: prompts decoded together.
        seed: of the draws; a prompt's draws depend on nothing else but its number.
    """

    model: Decoder
    prompts: Sequence[np.ndarray]
    end_ids: Sequence[int]
    sampler: Sampler
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        @jax.jit
        def draw(params: Params, key: Any, prompts: Any, lengths: Any, ids: Any) -> Any:
            end_ids = jnp.asarray(list(self.end_ids), jnp.int32)
            return sample(
                self.model, params, key, prompts, lengths, ids, end_ids, sampler=self.sampler
            )

        @jax.jit
        def score(params: Params, prompts: Any, lengths: Any, tokens: Any, mask: Any) -> Any:
            return score_responses(self.model, params, prompts, lengths, tokens, mask)

        object.__setattr__(self, "_draw", draw)
        object.__setattr__(self, "_score", score)

    def __call__(
        self, params: Params, reference: Params | None, *, progress: Progress = silent
    ) -> Answers:
        """Draws a response to every prompt.

        Returns:
            The responses, and estimates of `sampled/kl` (nats a response: the mean log-ratio of
            policy to reference over the policy's own samples; None for `reference` leaves it
            out), `sampled/length` (tokens) and `sampled/ended` (the share that ended by itself).
        """
        size = min(self.batch_size, len(self.prompts))
        width = max(len(prompt) for prompt in self.prompts)
        key = jax.random.key(self.seed)
        numbers = np.arange(-(-len(self.prompts) // size) * size).reshape(-1, size)
        kl, lengths, ended, texts = [], [], [], []
        for part in progress(iter(numbers), len(numbers)):
            chosen = np.minimum(part, len(self.prompts) - 1)  # the last batch is filled up
            padded = np.zeros((size, width), np.int32)
            for row, number in zip(padded, chosen, strict=True):
                row[: len(self.prompts[number])] = self.prompts[number]
            sizes = np.array([len(self.prompts[n]) for n in chosen], np.int32)
            drawn = self._draw(params, key, padded, sizes, chosen.astype(np.int32))  # type: ignore[attr-defined]
            there = part < len(self.prompts)
            mask = np.arange(drawn.tokens.shape[2]) < np.asarray(drawn.lengths)[..., None]
            if reference is not None:
                ref = self._score(reference, padded, sizes, drawn.tokens, mask)  # type: ignore[attr-defined]
                ratio = jnp.where(mask, drawn.logprobs - ref, 0.0).sum(axis=-1)
                kl.append(np.asarray(ratio)[there])
            tokens, counts = np.asarray(drawn.tokens), np.asarray(drawn.lengths)
            lengths.append(counts[there])
            ended.append(np.asarray(drawn.ended)[there])
            texts += [
                [tokens[i, j, : counts[i, j]].tolist() for j in range(tokens.shape[1])]
                for i in np.flatnonzero(there)
            ]
        columns = {"sampled/length": lengths, "sampled/ended": ended}
        if reference is not None:
            columns["sampled/kl"] = kl
        # One number a prompt: the mean over its samples, which are not independent of each other.
        joined = {name: np.concatenate(x).astype(np.float64) for name, x in columns.items()}
        return Answers(
            tokens=texts,
            ended=np.concatenate(ended),
            estimates={
                f"eval_{n}": estimate(
                    x.mean(axis=1), share=n.endswith(SHARES) and self.sampler.num_samples == 1
                )
                for n, x in joined.items()
            },
        )
