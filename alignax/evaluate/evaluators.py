"""Evaluators: held-out metrics of the method itself, and samples measured against the reference.

Each looks at a set of prompts and gives numbers of each prompt for every name, so that every mean
has an interval over prompts.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from alignax.core import processes
from alignax.core.method import Method, scalars, with_scalars
from alignax.core.records import Labelled
from alignax.core.types import Batch, Layout, Means, Metrics, Outputs, Params
from alignax.data.pipeline import Batches, Groups, Numbers
from alignax.data.plan import Plan
from alignax.evaluate.stats import Estimate, estimate, numbered
from alignax.generate.engine import Engine
from alignax.generate.sampler import Sampler
from alignax.models.outputs import score_responses
from alignax.models.transformer import Decoder
from alignax.train.step import ModelFn

OF_A_KIND = ("/chosen", "/rejected", "/margins")  # metrics of KTO
SHARES = ("accuracies", "ended", "unjudged")  # names whose values are 0 or 1, or shares of a list
OWN, OTHERS = "sampled/kl", "sampled/log_ratio"  # of the policy's own samples, and of any others
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
        numbers: of the tokens of these groups, such as the reference's log-probabilities.
        put: takes a step's arrays to the devices.
        prompts: of each group which prompt it is of; None takes those with the same tokens for one.
    """

    method: Method
    model: ModelFn
    groups: Groups
    plan: Plan
    numbers: Numbers
    put: Callable[[Any], Any] = lambda arrays: arrays
    prompts: Sequence[Hashable] | None = None

    def __post_init__(self) -> None:
        def look(
            numbers: dict[str, Any], params: Params, batch: Batch, layout: Layout
        ) -> tuple[Outputs, Metrics]:
            batch, layout = jax.tree.map(lambda x: x[0], (batch, layout))
            if params is None and batch.ref_logprobs is not None:
                outputs = Outputs(logprobs=batch.ref_logprobs)
            else:
                outputs = self.model(params, batch, layout)
            return outputs, with_scalars(self.method, numbers).means(outputs, batch)

        def pool(numbers: dict[str, Any], values: Metrics, present: jax.Array) -> Means:
            return with_scalars(self.method, numbers).pool(values, present)

        def judge(
            numbers: dict[str, Any], outputs: Outputs, batch: Batch, means: Means | None = None
        ) -> dict[str, jax.Array]:
            batch = jax.tree.map(lambda x: x[0], batch)._replace(means=means)
            loss, metrics = with_scalars(self.method, numbers).loss(outputs, batch)
            return {"loss": loss, **metrics}

        def measure(
            numbers: dict[str, Any], params: Params, batch: Batch, layout: Layout
        ) -> dict[str, jax.Array]:
            return judge(numbers, look(numbers, params, batch, layout)[0], batch)

        # Compiled once, however often called.
        object.__setattr__(self, "_measure", jax.jit(measure))
        object.__setattr__(self, "_parts", tuple(map(jax.jit, (look, pool, judge))))

    def __call__(
        self, params: Params | None, *, method: Method | None = None, progress: Progress = silent
    ) -> dict[str, Estimate]:
        """Estimates under the names `eval_*`; the loss is a mean over what `mean_over` says.

        Means are over groups, and their intervals over prompts with all their groups.

        Args:
            params: None for the reference itself, whose log-probabilities are there already.
            method: the same with other numbers of the type `Scalar`; None for `self.method`.
        """
        scalar = scalars(method or self.method)
        values: dict[str, list[np.ndarray]] = {}
        tokens, groups = [], []
        for i, (batch, found) in enumerate(self._measured(scalar, params, progress)):
            present = batch.valid[0].any(axis=-1)
            scored = batch.mask[0] & batch.valid[0][..., None]
            tokens.append(np.asarray(scored.sum(axis=(1, 2)))[present])
            groups.append(self.plan.step(i).group[0][present])
            for name, x in found.items():
                values.setdefault(name, []).append(np.asarray(x)[present])
        if self.method.needs().record is Labelled:
            # Means over one kind of label, whose number varies too: an interval would be another.
            values = {n: x for n, x in values.items() if not n.endswith(OF_A_KIND)}
        joined = {f"eval_{name}": np.concatenate(parts) for name, parts in values.items()}
        # Of such a method the losses are sums over each group's tokens.
        over = {"eval_loss": tokens} if self.method.needs().mean_over == "tokens" else {}
        weights = {name: np.concatenate(x).astype(np.float64) for name, x in over.items()}
        prompts = numbered(self._prompts[np.concatenate(groups)].tolist())
        return {
            name: estimate(
                x, prompts=prompts, weights=weights.get(name), share=name.endswith(SHARES)
            )
            for name, x in joined.items()
        }

    @property
    def num_prompts(self) -> int:
        """Different prompts, of which there may be fewer than groups."""
        return len(set(self._prompts.tolist()))

    @functools.cached_property
    def _prompts(self) -> Int[np.ndarray, " g"]:
        """Of each group the number of its prompt."""
        if self.prompts is not None:
            return numbered(self.prompts)
        return numbered(self.groups[i].prompt.tobytes() for i in range(len(self.groups)))

    def _measured(
        self, scalar: dict[str, Any], params: Params | None, progress: Progress
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """Each batch with its losses and metrics."""
        if type(self.method).means is not Method.means:
            yield from self._measured_together(scalar, params, progress)
            return
        for batch, layout in progress(self._batches(), len(self.plan)):
            arrays = self.put((batch, layout))
            yield batch, processes.fetch(self._measure(scalar, params, *arrays))  # type: ignore[attr-defined]

    def _measured_together(
        self, scalar: dict[str, Any], params: Params | None, progress: Progress
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """The same where a loss needs `Method.means`: of all batches, as if they were one.

        What the model says of each batch is kept by the host until the model has seen the last.
        """
        look, pool, judge = self._parts  # type: ignore[attr-defined]
        said, values, present = [], [], []
        for batch, layout in progress(self._batches(), len(self.plan)):
            outputs, found = processes.fetch(look(scalar, params, *self.put((batch, layout))))
            said.append(outputs)
            values.append(found)
            present.append(batch.valid[0].any(axis=-1))
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *values)
        means = processes.fetch(pool(scalar, joined, np.concatenate(present)))
        for (batch, _), outputs in zip(self._batches(), said, strict=True):
            yield batch, processes.fetch(judge(scalar, outputs, self.put(batch), means))

    def _batches(self) -> Iterator[tuple[Batch, Layout]]:
        return iter(Batches(self.groups, self.plan, numbers=self.numbers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Sampled responses to a set of prompts, one list of token ids for each prompt and sample.

    Fields:
        numbers: of each response by name, [n, k]: `length`, and where they are known `kl` or
            `log_ratio` (its log-ratio of policy to reference, in nats) and `reward`, NaN where it
            has none.
    """

    tokens: list[list[list[int]]]
    ended: np.ndarray
    numbers: dict[str, np.ndarray]
    estimates: dict[str, Estimate]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """Responses that the policy gives, and how far it has moved from the reference.

    Fields:
        prompts: token ids of each prompt.
        end_ids: tokens that end a response.
        batch_size: responses decoded together, and prompts scored together.
        seed: of the draws; a prompt's draws depend on nothing else but its number.
        reward: of the responses to each prompt and whether they ended, [n, k], where there is one;
            NaN for a response that has none.
        weights: as in `Engine`.
    """

    model: Decoder
    prompts: Sequence[np.ndarray]
    end_ids: Sequence[int]
    sampler: Sampler
    batch_size: int = 64
    seed: int = 0
    reward: Callable[[Sequence[Sequence[Sequence[int]]], np.ndarray], np.ndarray] | None = None
    weights: Any = None

    def __post_init__(self) -> None:
        engine = Engine(model=self.model, sampler=self.sampler, end_ids=tuple(self.end_ids),
                        slots=max(self.batch_size, self.sampler.num_samples),
                        weights=self.weights)  # fmt: skip

        object.__setattr__(self, "_engine", engine)

    def __call__(
        self,
        params: Params,
        reference: Params | None,
        *,
        seed: int | None = None,
        progress: Progress = silent,
    ) -> Answers:
        """Draws a response to every prompt.

        Args:
            seed: in place of `self.seed`.

        Returns:
            The responses, and estimates of `sampled/kl` (nats a response: the mean log-ratio of
            policy to reference over the policy's own samples; None for `reference` leaves it
            out), `sampled/length` (tokens), `sampled/ended` (the share that ended by itself) and,
            where there is one, `sampled/reward`. Where the sampler tempers, truncates or takes
            the likeliest, samples are not the policy's own, and that mean is no divergence: it is
            `sampled/log_ratio`, comparable only between runs with the same sampler.
        """
        count = len(self.prompts)
        key = jax.random.key(self.seed if seed is None else seed)
        drawn = self._engine(params, key, self.prompts, range(count))  # type: ignore[attr-defined]
        columns = {"sampled/length": drawn.lengths, "sampled/ended": drawn.ended}
        if reference is not None:
            ratios = self._log_ratios(reference, drawn, progress)
            columns[OWN if self.sampler.is_plain else OTHERS] = ratios
        texts = [
            [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
            for rows, lengths in zip(drawn.tokens, drawn.lengths, strict=True)
        ]
        if self.reward is not None:
            columns["sampled/reward"] = self.reward(texts, drawn.ended)
            if (unjudged := np.isnan(columns["sampled/reward"])).any():
                columns["sampled/unjudged"] = unjudged
        return Answers(
            tokens=texts,
            ended=drawn.ended,
            numbers={n.removeprefix("sampled/"): x for n, x in columns.items() if "ended" not in n},
            estimates={
                f"eval_{name}": self._estimate(name, x)
                for name, x in columns.items()
                if not np.isnan(x).all()
            },
        )

    @functools.cached_property
    def _numbers(self) -> Int[np.ndarray, " n"]:
        """Which rows ask the same."""
        return numbered(prompt.tobytes() for prompt in self.prompts)

    @property
    def num_prompts(self) -> int:
        """Different prompts, of which there may be fewer than are answered."""
        return len(set(self._numbers.tolist()))

    def _estimate(self, name: str, x: np.ndarray) -> Estimate:
        """The mean of one number a response, [n, k], NaN where it has none."""
        if name.endswith(SHARES):
            prompts = np.repeat(self._numbers, x.shape[1])
            return estimate(x.ravel().astype(np.float64), prompts=prompts, share=True)
        # A prompt counts once, however many of its responses have a number.
        there = ~np.isnan(x).all(axis=1)
        means = np.nanmean(x[there].astype(np.float64), axis=1)
        return estimate(means, prompts=numbered(self._numbers[there].tolist()))

    def _log_ratios(self, reference: Params, drawn: Any, progress: Progress) -> np.ndarray:
        """The log-ratio of policy to reference of each response, in nats."""
        count, width = len(self.prompts), max(len(prompt) for prompt in self.prompts)
        size = min(max(1, self.batch_size // self.sampler.num_samples), count)
        numbers = np.arange(-(-count // size) * size).reshape(-1, size)
        found = []
        for part in progress(iter(numbers), len(numbers)):
            chosen = np.minimum(part, count - 1)  # the last batch is filled up
            padded = np.zeros((size, width), np.int32)
            for row, number in zip(padded, chosen, strict=True):
                row[: len(self.prompts[number])] = self.prompts[number]
            sizes = np.array([len(self.prompts[n]) for n in chosen], np.int32)
            tokens = drawn.tokens[chosen]
            mask = np.arange(tokens.shape[2]) < drawn.lengths[chosen][..., None]
            ref = _score(self.model, reference, padded, sizes, tokens, mask)
            ratio = np.where(mask, drawn.logprobs[chosen] - processes.fetch(ref), 0.0).sum(axis=-1)
            found.append(ratio[part < count])
        return np.concatenate(found)


_score = functools.partial(jax.jit, static_argnums=0)(score_responses)
