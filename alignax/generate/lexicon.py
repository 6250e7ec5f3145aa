"""A reward without a model: how many of a completion's words are good ones, and how many bad.

The built-in list is in `sentiment.txt`: plain English words, written for this project.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.generate.rewards import Reward

BUILT_IN = "sentiment"
REACH = 3  # words that a negation reaches
NEGATIONS = frozenset(
    ("no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "without", "hardly",
     "barely", "cannot")
)  # fmt: skip
CURLY = "\u2019"  # the apostrophe of typographers
_WORDS = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|[.,;:!?()\n]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lexicon(Reward):
    """The mean weight of the words of a completion that are on a list; in [-1, 1].

    (sum of weights) / max(1, words found). A word within three words after a negation ("not",
    "never", "isn't") counts the other way, unless a punctuation mark or a line end stands
    between. Case does not matter.

    Known points, with the built-in list: "A good film." gives 1, "not a good film" -1, "good, not
    bad, but boring" (1 + 1 - 1) / 3; a text without such words 0.

    Fields:
        words: "sentiment" for the built-in list, or the path of a text file with one word and its
            weight in [-1, 1] a line, such as `lovely 0.8`; lines that begin with # are passed
            over.
    """

    words: str = BUILT_IN

    def check(self) -> None:
        """Refuses a file that is not there, or has a line that is no word and weight."""
        self.weights()

    def fingerprint(self) -> str:
        """Of the words and their weights."""
        return hashlib.sha256(repr(sorted(self.weights().items())).encode()).hexdigest()

    def weights(self) -> Mapping[str, float]:
        """The weight of every word of the list, in lower case."""
        if self.words == BUILT_IN:
            return _read(Path(__file__).with_name("sentiment.txt"), 0)
        path = Path(self.words).expanduser()
        try:
            changed = path.stat().st_mtime_ns
        except OSError as error:
            raise BadInput(
                f"{BUILT_IN!r}, or the path of a file with a word and its weight a line",
                f"{error.strerror}: {self.words}",
                "Check the path.",
                where=f"rewards: {self.name}.words",
            ) from error
        return _read(path, changed)

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> list[float]:
        """The mean weight for each completion."""
        del prompts, completion_ids, columns
        weights = self.weights()
        return [_mean(text, weights) for text in completions]


def _mean(text: str, weights: Mapping[str, float]) -> float:
    total, found, negated = 0.0, 0, 0
    for word in _WORDS.findall(text.lower().replace(CURLY, "'")):
        if not word[0].isalpha():
            negated = 0
            continue
        if word in weights:
            total += -weights[word] if negated else weights[word]
            found += 1
        negated = max(negated - 1, 0)
        if word in NEGATIONS or word.endswith("n't"):
            negated = REACH
    return total / max(1, found)


@functools.lru_cache(maxsize=16)
def _read(path: Path, changed: int) -> Mapping[str, float]:
    """The words of a file; it is read again once it has changed."""
    del changed
    weights: dict[str, float] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            "a text file", str(error), "Give a file with a word and its weight a line.",
            where=str(path),
        ) from error  # fmt: skip
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        word, _, weight = line.strip().rpartition(" ")
        word = word.strip().lower().replace(CURLY, "'")
        match = _WORDS.fullmatch(word)
        try:
            value = float(weight)
        except ValueError:
            match, value = None, 0.0
        if not match or not -1.0 <= value <= 1.0:
            raise BadInput(
                "one word and its weight in [-1, 1]", repr(line), "Mend or remove the line.",
                where=f"{path}:{number}",
            )  # fmt: skip
        if weights.setdefault(word, value) != value:
            raise BadInput(
                "one weight for each word", f"{word} again, with {value:g} after {weights[word]:g}",
                "Keep one of the two lines.", where=f"{path}:{number}",
            )  # fmt: skip
    if not weights:
        raise BadInput("at least one word", "none", "Give a word and its weight a line.",
                       where=str(path))  # fmt: skip
    return weights
