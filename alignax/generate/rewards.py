"""What a reward is, and the weighted sum of several, in which nothing bad passes unseen.

A reward is a value: a frozen dataclass that a config can hold, print, compare and write as JSON.
It is given prompts and completions as text, never as the policy's special tokens.
"""

import abc
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.records import Text
from alignax.data.bad_rows import BadRow, Tally

SHOWN = 80  # characters of a text that an error quotes
LARGEST = float(np.finfo(np.float32).max)
_TAKEN = ("prompts", "completions", "completion_ids")  # names that no column can have


class Reward(abc.ABC):
    """A number for each completion; higher is better. Abstract and without fields.

    Attributes:
        everywhere: whether every process of a run must call it, because it computes on the devices
            of all. Others are called by the first process alone: a judge is asked once.
    """

    everywhere: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Short, for metrics: the class in snake case, where a reward says no other."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def check(self) -> None:  # noqa: B027 - many have nothing to refuse
        """Refuses settings that cannot work, before anything is allocated.

        Raises:
            BadInput: naming the setting.
        """

    def check_prompts(self, prompts: Sequence[Text], origins: Sequence[str]) -> None:  # noqa: B027
        """Refuses prompts that it cannot judge, before anything is computed."""

    def fingerprint(self) -> str:
        """Of files that decide its numbers beside its settings; empty where there are none."""
        return ""

    @abc.abstractmethod
    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None,
        **columns: Sequence[Any],
    ) -> Sequence[float | None]:
        """One number for each completion; None where the reward does not apply to it.

        All arguments have one entry a completion: a prompt with k samples is there k times.

        Args:
            prompts: strings or conversations.
            completions: decoded, without special tokens.
            completion_ids: the policy's token ids, the end-of-turn token included; None where the
                completions are texts of a file, and no policy's.
            columns: the other columns of the prompts' rows, such as `answer`.
        """


class Scored(NamedTuple):
    """What completions were given (n of them), by each of j parts.

    Fields:
        total: the weighted sum of the parts that apply; 0 where not good.
        parts: each part's own number, unweighted; NaN where it has none.
        good: whether the completion has a total to learn from.
        names: of the parts, all different.
        bad: why others have none, with counts.
    """

    total: Float32[np.ndarray, " n"]
    parts: Float32[np.ndarray, "n j"]
    good: Bool[np.ndarray, " n"]
    names: tuple[str, ...]
    bad: Tally


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewards:
    """The weighted sum of rewards.

    A part that is None for a completion is left out of its sum. A completion is bad where a part
    gives NaN or an infinity, gives something that is no number, raises, gives a list of another
    length (then all are), or where no part applies.

    Fields:
        parts: the rewards.
        weights: one a part; all 1 where empty. Metrics show the parts unweighted.
        on_bad: "refuse" stops at a bad completion; "mask" leaves it out and counts it.
    """

    parts: tuple[Reward, ...]
    weights: tuple[float, ...] = ()
    on_bad: Literal["refuse", "mask"] = "refuse"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts, for metrics; a name that comes again gets a number: match, match_2."""
        found: list[str] = []
        for part in self.parts:
            taken, name, count = set(found), part.name, 1
            while name in taken:
                count += 1
                name = f"{part.name}_{count}"
            found.append(name)
        return tuple(found)

    def check(self) -> None:
        """Refuses settings that cannot work, of the sum and of every part.

        Raises:
            BadInput: naming the setting.
        """
        self._check_sum()
        for part in self.parts:
            part.check()

    def check_prompts(self, prompts: Any) -> None:
        """Has each part look at the prompts that reads them by a template of its own."""
        for part in self.parts:
            part.check_prompts(prompts.texts, prompts.origins)

    def _check_sum(self) -> None:
        if not self.parts:
            raise BadInput("at least one reward", "none", "Name what is rewarded.",
                           where="rewards.parts")  # fmt: skip
        for part in self.parts:
            check_reward(part, "rewards.parts")
        weights = self.weights
        if weights and len(weights) != len(self.parts):
            raise BadInput(
                f"{len(self.parts)} weights, one for each of {', '.join(self.names)}",
                f"{len(weights)}: {', '.join(map(str, weights))}",
                "Give one weight a reward, or none for a plain sum.",
                where="rewards.weights",
            )
        if not all(math.isfinite(weight) for weight in weights):
            raise BadInput("finite weights", ", ".join(map(str, weights)), "Change the weight.",
                           where="rewards.weights")  # fmt: skip

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> Scored:
        """Gives every completion its reward.

        A part that raises is asked again about halves of the completions, until it is known which
        of them it raises for. A setting that cannot work, such as a column that is not there, is
        refused whatever `on_bad` says. In a run of several processes the first one's numbers are
        to be told to the others, where parts that are not `everywhere` give 0.

        Args:
            prompts, completions, completion_ids, columns: one entry a completion in each, as
                `Reward` has it.

        Raises:
            BadInput: the settings are bad; or with `on_bad="refuse"` a completion is, and the
                error quotes it.
        """
        self._check_sum()
        asked = _Asked(prompts, completions, completion_ids, columns)
        asked.check()
        n, names = len(completions), self.names
        parts = np.full((n, len(self.parts)), np.nan)
        why: dict[int, str] = {}  # of every bad completion, one reason
        # What is computed by all processes together comes first: the first process alone may find
        # that another part fails, and then goes on to tell the others, who must not be computing.
        for j in sorted(range(len(names)), key=lambda j: not self.parts[j].everywhere):
            part, name = self.parts[j], names[j]
            if not (part.everywhere or processes.is_first()):
                parts[:, j] = 0.0
                continue
            for index, value in _ask(part, asked, range(n)):
                number, defect = _as_number(value)
                parts[index, j] = number
                if not defect:
                    continue
                if self.on_bad == "refuse":
                    raise self._refusal(name, defect, asked, index, value)
                why.setdefault(index, f"{name}: {defect}")
        for index in np.flatnonzero(np.isnan(parts).all(axis=1)).tolist():
            if index in why:
                continue
            if self.on_bad == "refuse":
                raise self._refusal(", ".join(names), "None from every part", asked, index, None)
            why[index] = "no part applies"
        bad = Tally()
        for index in sorted(why):
            bad.add(why[index], f"{shortened(completions[index])!r}")
        weights = np.array(self.weights or (1.0,) * len(names))
        total = np.where(np.isnan(parts), 0.0, parts) @ weights
        good = np.array([i not in why for i in range(n)], bool)
        total = np.where(good, total, 0.0).astype(np.float32)
        return Scored(total, parts.astype(np.float32), good, names, bad)

    def _refusal(self, name: str, defect: str, asked: "_Asked", index: int, value: Any) -> BadInput:
        which = f"the completion {shortened(asked.completions[index])!r}"
        if isinstance(value, _WrongLength):
            which = f"completions that begin with {shortened(asked.completions[index])!r}"
        error = BadInput(
            "a finite number for every completion, or None where a reward does not apply",
            f"{defect} for {which} to the prompt {shortened(asked.prompts[index])!r}",
            'Mend the reward, or leave such completions out: rollout.rewards.on_bad="mask", or '
            "--on-bad-row drop of `alignax score`.",
            where=f"rewards: {name}",
        )
        if isinstance(value, Exception):
            error.__cause__ = value
        return error


def check_reward(value: Any, where: str) -> None:
    """Refuses what is no reward.

    Args:
        where: the setting that has it.

    Raises:
        BadInput: with what is to be written in its place.
    """
    if isinstance(value, Reward):
        return
    directory, remedy = None, "Wrap a function of your own as Function(function=...)."
    if isinstance(value, Method):  # which trains one
        directory = "OUTPUT_DIR/export"
    elif isinstance(value, str) and ":" in value:
        remedy = f'Write Function(function="{value}").'
    else:
        directory = value if isinstance(value, str) else getattr(value, "model_name_or_path", None)
    if directory is not None:
        remedy = f'The reward of a reward model is ModelReward(directory="{directory}").'
    raise BadInput("rewards", f"{value!r} ({type(value).__name__})", remedy, where=where)


def shortened(text: Text) -> str:
    """A text as an error may quote it: its beginning and its end; of a conversation, the last."""
    text = text if isinstance(text, str) else (text[-1].content if text else "")
    if len(text) <= SHOWN:
        return text
    return f"{text[: SHOWN * 2 // 3]} ... {text[-(SHOWN // 3) :]}"


class _WrongLength(Exception):
    """A part gave a list of another length."""


class _Asked(NamedTuple):
    """What a part is asked about."""

    prompts: Sequence[Text]
    completions: Sequence[str]
    completion_ids: Sequence[Sequence[int]] | None
    columns: Mapping[str, Sequence[Any]]

    def check(self) -> None:
        """All have one entry a completion."""
        lengths = {"prompts": len(self.prompts)}
        if self.completion_ids is not None:
            lengths["completion_ids"] = len(self.completion_ids)
        lengths |= {f"columns[{name!r}]": len(x) for name, x in self.columns.items()}
        n = len(self.completions)
        wrong = [f"{length} {name}" for name, length in lengths.items() if length != n]
        if wrong:
            raise BadInput(
                f"as many of everything as completions, {n}",
                ", ".join(wrong),
                "Repeat each prompt and its columns for each of its completions.",
                where="rewards",
            )

    def call(self, part: Reward, indices: Sequence[int]) -> list[Any]:
        """What a part gives to some of the completions."""
        take = lambda values: [values[i] for i in indices]  # noqa: E731
        found = part(
            take(self.prompts),
            take(self.completions),
            completion_ids=None if self.completion_ids is None else take(self.completion_ids),
            **{name: take(x) for name, x in self.columns.items() if name not in _TAKEN},
        )
        found = list(found)
        if len(found) != len(indices):
            raise _WrongLength(f"{len(found)} numbers for {len(indices)} completions")
        return found


def _ask(part: Reward, asked: _Asked, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Every index with what the part gives to it, or with what it raises."""
    if not indices:
        return
    try:
        found = asked.call(part, indices)
    except _WrongLength as error:
        yield from ((i, error) for i in indices)
    except Exception as error:
        if isinstance(error, BadInput) and not isinstance(error, BadRow):
            raise  # a setting, and not a completion
        if len(indices) == 1:
            yield indices[0], error
            return
        half = len(indices) // 2
        yield from _ask(part, asked, indices[:half])
        yield from _ask(part, asked, indices[half:])
    else:
        yield from zip(indices, found, strict=True)


def _as_number(value: Any) -> tuple[float, str]:
    """A part's answer as a number (NaN where it is none), and what is wrong with it."""
    if value is None:
        return math.nan, ""
    if isinstance(value, BadInput):
        return math.nan, f"{value.got} (expected {value.expected})"
    if isinstance(value, _WrongLength):
        return math.nan, str(value)
    if isinstance(value, Exception):
        return math.nan, f"{type(value).__name__}: {value}"
    if isinstance(value, str | bytes):
        return math.nan, f"{shortened(str(value))!r}, which is no number"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan, f"a {type(value).__name__}, which is no number"
    if not abs(number) <= LARGEST:
        return math.nan, str(number)
    return number, ""
