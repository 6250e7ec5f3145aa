"""Rewards by rule: patterns, answers that are numbers, lengths. Nothing is learnt.

What a number looks like in a text is in `numbers_in_text.py`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from alignax.core.advantages import overlong_penalty
from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.generate.numbers_in_text import as_fraction, final_number
from alignax.generate.rewards import Reward

# A thought, then an answer, each in one pair of tags and not empty, and nothing around them.
_INSIDE = r"(?:(?!</?(?:think|answer)>).)+"
THINK_THEN_ANSWER = rf"(?s)\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match(Reward):
    """One number where a regular expression is found in the completion, another where not.

    Fields:
        pattern: in Python's syntax. `(?s)` at its start lets a dot meet line ends, `(?i)` makes
            letters match in either case.
        full: the whole completion must match, and not some part of it.
        reward, otherwise: the two numbers.
    """

    pattern: str
    full: bool = False
    reward: float = 1.0
    otherwise: float = 0.0

    def check(self) -> None:
        """Refuses a pattern that does not compile, and numbers that are not finite."""
        _compiled(self.pattern, self.name)
        _check_finite(self, "reward", "otherwise")

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> list[float]:
        """`reward` or `otherwise` for each completion."""
        del prompts, completion_ids, columns
        pattern = _compiled(self.pattern, self.name)
        found = pattern.fullmatch if self.full else pattern.search
        return [self.reward if found(text) else self.otherwise for text in completions]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format(Match):
    """`Match` of the whole completion: by default with a thought and then an answer.

    As DeepSeek-R1 is asked to write (arXiv:2501.12948): `<think>...</think> <answer>...</answer>`.
    """

    pattern: str = THINK_THEN_ANSWER
    full: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberAnswer(Reward):
    """One number where the completion's answer is the reference's, another where not.

    Answers are compared as exact numbers: 1,000 is $1000.00, and 0.5 is 1/2; but 0.33 is not 1/3.
    A per cent sign is passed over. A completion's answer is the number after its last `####`, or
    in its last `\\boxed{}`, or else its last number; so GSM8K is checked (arXiv:2110.14168).

    Fields:
        column: of the prompts' rows, with the reference: a number, or a text read in the same
            way, such as "42" or a solution that ends in "#### 42". Where it is None, the reward
            does not apply.
        reward, otherwise: the two numbers.
    """

    column: str = "answer"
    reward: float = 1.0
    otherwise: float = 0.0

    def check(self) -> None:
        """Refuses numbers that are not finite."""
        _check_finite(self, "reward", "otherwise")

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> list[float | None]:
        """`reward` or `otherwise` for each completion; None where there is no reference.

        Raises:
            BadInput: the rows have no such column.
            ValueError: a reference holds no number.
        """
        del prompts, completion_ids
        references = _column(columns, self.column, self.name)
        return [
            None if reference is None else self._compare(text, as_fraction(reference))
            for text, reference in zip(completions, references, strict=True)
        ]

    def _compare(self, text: str, reference: Any) -> float:
        return self.reward if final_number(text) == reference else self.otherwise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length(Reward):
    """1 / (1 + ((length - target) / width)^2): a peak at the target, that never goes flat.

    1 at the target, 1/2 one width away, 1/5 two widths away; in (0, 1].

    Fields:
        target: the length wanted, at least 0.
        width: how far from it the reward is halved, positive.
        unit: "tokens" of the policy, the end-of-turn token included, or "words" between spaces.
    """

    target: float
    width: float
    unit: Literal["tokens", "words"] = "words"

    def check(self) -> None:
        """Refuses a target below 0, a width that is not positive and an unknown unit."""
        if not 0 <= self.target < math.inf:
            raise _wrong(self, "target", "a length, at least 0")
        if not 0 < self.width < math.inf:
            raise _wrong(self, "width", "a positive number")
        if self.unit not in ("tokens", "words"):
            raise _wrong(self, "unit", "tokens or words")

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> list[float]:
        """The height of the peak at each completion's length."""
        del prompts, columns
        parts = [text.split() for text in completions]
        if self.unit == "tokens":
            parts = _known(completion_ids, self.name)
        return [1.0 / (1.0 + ((len(part) - self.target) / self.width) ** 2) for part in parts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlong(Reward):
    """DAPO's penalty of length (arXiv:2503.14476): 0 at first, then a slope down to -1.

    Fields:
        max_length: tokens at which the penalty is -1; typically the most that are sampled.
        buffer: tokens before it over which the penalty falls; in [0, max_length].
    """

    max_length: int
    buffer: int

    def check(self) -> None:
        """Refuses a length that is not positive, and a buffer that it does not hold."""
        if self.max_length <= 0:
            raise _wrong(self, "max_length", "a positive number of tokens")
        if not 0 <= self.buffer <= self.max_length:
            raise _wrong(self, "buffer", f"a number of tokens from 0 to {self.max_length}")

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> list[float]:
        """A number in [-1, 0] for each completion."""
        del prompts, completions, columns
        ids = _known(completion_ids, self.name)
        lengths = jnp.asarray([len(x) for x in ids], jnp.float32)
        penalty = overlong_penalty(lengths, max_length=self.max_length, buffer=self.buffer)
        return np.asarray(penalty).tolist()


def _compiled(pattern: str, name: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)  # which keeps what it compiled
    except re.error as error:
        raise BadInput(
            "a regular expression",
            f"{pattern!r}: {error}",
            "Mend the pattern; a backslash before a special character takes it as it stands.",
            where=f"rewards: {name}.pattern",
        ) from error


def _column(columns: Mapping[str, Sequence[Any]], column: str, name: str) -> Sequence[Any]:
    if column in columns:
        return columns[column]
    raise BadInput(
        f"a column {column!r} beside the prompts",
        f"the columns {', '.join(sorted(columns))}" if columns else "prompts alone",
        "Name the column that holds the reference, or add it to the data.",
        where=f"rewards: {name}.column",
    )


def _known(ids: Sequence[Sequence[int]] | None, name: str) -> Sequence[Sequence[int]]:
    """Token ids; a rule that counts tokens can say nothing without them."""
    if ids is not None:
        return ids
    raise BadInput(
        "the token ids of the completions",
        "texts alone",
        "Count words, or judge what a policy draws.",
        where=f"rewards: {name}",
    )


def _check_finite(reward: Reward, *fields: str) -> None:
    for field in fields:
        if not math.isfinite(getattr(reward, field)):
            raise _wrong(reward, field, "a finite number")


def _wrong(reward: Reward, field: str, expected: str) -> BadInput:
    got = repr(getattr(reward, field))
    return BadInput(expected, got, "Change the setting.", where=f"rewards: {reward.name}.{field}")
