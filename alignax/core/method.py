"""What a method is: hyperparameters, a declaration of needs and a few pure functions.

A method is a value: a final, frozen dataclass in a file of its own. Shared code asks it what it
needs and never which one it is.
"""

import abc
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from alignax.core.records import Group, Record, Text
from alignax.core.schedule import Schedule
from alignax.core.types import Batch, Means, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a method that learns from samples wants them drawn.

    Fields:
        num_samples: responses drawn for each prompt, the greedy one included.
        temperature: divides the logits.
        top_p: keep the smallest set of tokens with at least this probability, in (0, 1].
        top_k: keep this many tokens; 0 keeps all.
        min_p: keep tokens with at least this share of the likeliest token's probability.
        source: whose samples: the policy being trained, or the reference.
        greedy_first: make the first response the greedy one.
        refresh: updates between two drawings.
        epochs: passes over what was drawn.
        fill: draw further prompts in place of those of which `select` keeps nothing.
        replay: what of earlier drawings is learnt from again: nothing, all that was kept, or of
            each prompt the best (`core.selection.best_of_rounds`).
        longest: for how many tokens of the longest response that may be sampled the loss takes a
            constant of its own; None where it has none. A run says where others are sampled.
    """

    num_samples: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    source: Literal["policy", "reference"] = "policy"
    greedy_first: bool = False
    refresh: int = 1
    epochs: int = 1
    fill: bool = False
    replay: Literal["none", "all", "best"] = "none"
    longest: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method must be given. The rooms are built from this, and from nothing else.

    Fields:
        record: the type of text record it learns from.
        reference: whether `batch.ref_logprobs` must be there.
        reward: whether responses must be scored by a reward function.
        sampling: how responses are drawn, for methods that learn from samples.
        tempered: log-probabilities, the reference's too, are those of the distribution that
            responses are drawn from, with logits divided by the temperature of `sampling`: a policy
            gradient is one of what drew the samples. Truncation (top_p and so on) is left out.
        on_policy: the loss takes every sample for one of the policy as it is: it has no ratio that
            would correct for another's, so samples are drawn for each update and used once.
        head: a scalar head: "value" beside the vocabulary, "reward" in its place.
        score_names: of the outputs of the reward head.
        score_ranges: the lowest and the highest number that each was taught, where that is a scale
            to keep to; an infinity where it is not known.
        outputs: further fields of `Outputs` to compute: the entropy alone.
        mean_over: what the sum of losses is divided by: the prompts of the whole optimiser step,
            or its scored tokens.
        schedule: in which order groups are met, by how easy they are: their first score less
            their last. None for any order.
    """

    record: type[Record]
    reference: bool = False
    reward: bool = False
    sampling: Sampling | None = None
    tempered: bool = False
    on_policy: bool = False
    head: Literal["value", "reward"] | None = None
    score_names: tuple[str, ...] = ("reward",)
    score_ranges: tuple[tuple[float, float], ...] = ()
    outputs: frozenset[Literal["entropy"]] = frozenset()
    mean_over: Literal["prompts", "tokens"] = "prompts"
    schedule: Schedule | None = None


# The metadata of a method's field that has no part in how records become text.
LOSS_ALONE = {"text": False}


class Method(abc.ABC):
    """Abstract and without fields. Every method class is final."""

    @abc.abstractmethod
    def needs(self) -> Needs:
        """What the method must be given."""

    def fit(self, records: Sequence[Record]) -> "Method":
        """The method with what it takes from the training data, such as the scale of its scores.

        Called once, before anything is made of the data; what it sets is kept with the run.
        """
        del records
        return self

    def fits(self) -> bool:
        """Whether `fit` takes anything from the data; where not, they are not read for it."""
        return type(self).fit is not Method.fit

    @abc.abstractmethod
    def group(self, record: Record) -> Group:
        """Puts the responses of one record side by side, in the order the loss expects.

        Raises:
            LeftOut: the record is of no use to the method.
        """

    def remarks(self, gaps: Float[np.ndarray, " g"]) -> tuple[str, ...]:
        """What there is to say of the training data before a run: for people, never an error.

        Args:
            gaps: of each group its first score less its last.
        """
        del gaps
        return ()

    def ask(self, prompt: Text) -> Text:
        """How the trained policy is prompted. The prompt itself, for most."""
        return prompt

    def select(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """What of a sampled and scored batch is kept, paired or re-scored. Shapes are static.

        Called once after each drawing, on all of its prompts, before anything is cut into steps.
        What it keeps may have other b and k; a prompt of which it keeps nothing has no response
        that is valid. The step sees a prompt's responses together, so what is computed from one
        prompt's scores alone can be left to the loss.
        """
        del key
        return batch

    def means(self, outputs: Outputs, batch: Batch) -> Metrics:
        """Numbers a prompt whose means over the whole optimiser step the loss needs. Mostly none.

        The loss gets them from `over_step`, without gradient.
        """
        del outputs, batch
        return {}

    def pool(self, values: Metrics, present: Bool[Array, " b"]) -> Means:
        """One number of each name for the whole optimiser step, from what `means` gives of it.

        Their mean over the prompts that are present, unless what the loss needs is no such mean.
        """
        count = jnp.maximum(jnp.sum(present, dtype=jnp.float32), 1.0)
        return {n: jnp.sum(jnp.where(present, x, 0.0)) / count for n, x in values.items()}

    @abc.abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """One loss a prompt, unreduced, and metrics: one number a prompt for each name."""


def over_step(method: Method, outputs: Outputs, batch: Batch) -> Means:
    """What `Method.means` gives, pooled over the optimiser step, without gradient.

    Where the step has several micro-batches it has pooled all of them and put the result into the
    batch. Where it has one, the batch is the whole step, on all devices together.
    """
    if batch.means is not None:
        return batch.means
    values = jax.lax.stop_gradient(method.means(outputs, batch))
    return method.pool(values, jnp.any(batch.valid, axis=-1))


def text_settings(method: Method) -> str:
    """What of a method may decide how records become text: its name and its fields.

    Fields of the type `Scalar` are left out. They may be traced numbers, so only `loss` can use
    them, and a sweep over them finds its data prepared and the reference's log-probabilities
    computed. So are others that say so (`LOSS_ALONE`).
    """
    fields = [x.name for x in dataclasses.fields(method) if x.metadata.get("text", True)]  # type: ignore[arg-type]
    free = scalars(method)
    kept = [f"{name}={getattr(method, name)!r}" for name in fields if name not in free]
    return f"{type(method).__qualname__}({', '.join(kept)})"


def scalars(settings: Any) -> dict[str, Scalar]:
    """The fields of the type `Scalar` of a method, or of other settings, by name."""
    hints = typing.get_type_hints(type(settings))
    fields = [field.name for field in dataclasses.fields(settings)]
    return {name: getattr(settings, name) for name in fields if hints[name] == Scalar}


def with_scalars(method: Method, numbers: Mapping[str, Scalar]) -> Method:
    """The method with other numbers, which may be traced, in some fields of the type `Scalar`.

    Its constructor is not called: what that checks are the user's numbers.
    """
    other = object.__new__(type(method))
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        value = numbers.get(field.name, getattr(method, field.name))
        object.__setattr__(other, field.name, value)
    return other
