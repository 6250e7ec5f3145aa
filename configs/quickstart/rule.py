"""Judge an answer by its form: brief, plain and finished.

Every part is a cost, so the best score is 0, and a doubling of what there is too much of costs
about 1. The rule is flat at its top: once an answer is brief and plain there is nothing more to
gain, in words left out or in anything else, so a policy that has learned it has no slope left to
run along. It reads neither prompt nor meaning: a false answer in good form scores 0, and what
keeps a policy sensible is its distance from the reference, not this rule.
"""

import math
import re

WORDS = 8, 30  # the plain length: about one or two sentences
SENTENCES = 2

# A hyphen parts two words, so that a chain-of-words-like-this is not one short word.
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_SENTENCE_END = re.compile(r"[.!?]+[\"'\u201d\u2019)]*(?=\s|$)")
_LAST_STOP = re.compile(r"(?<![.])[.!?][\"'\u201d\u2019)]*$")  # three dots do not finish a sentence
_LAYOUT = re.compile(
    r"\n+"  # a new line or paragraph
    r"|^[ \t]*(?:[-*+•]|\d+[.)]|#+|>)[ \t]"  # a list item, a heading, a quotation
    r"|\*\*|__|`+|\|",  # bold, code, a table cell
    re.MULTILINE,
)


def score(answer: str, *, ended: bool) -> float:
    """Add the parts up: 0 for a brief, plain, finished answer, less for any other."""
    return sum(parts(answer, ended).values())


def parts(answer: str, ended: bool) -> dict[str, float]:
    """Name the costs of an answer, each 0 or less.

    Args:
        answer: the text of the answer alone, without prompt or special tokens.
        ended: whether the model ended the answer itself, before the limit of tokens.

    Returns:
        ended: -4 where the answer was cut off.
        stop: -1 where the last sentence has no full stop, "!" or "?".
        short: under 8 words, -(words missing)^2 / 8: 6 words -0.5, 3 words -3.125, none -8.
        long: over 30 words, -log2(words / 30): 60 words -1, 120 words -2.
        sentences: over 2, -log2(sentences / 2): 4 sentences -1, 8 sentences -2.
        layout: -log2(1 + marks) for the line breaks, list items, headings, bold, code and tables.
        repeats: -6 x the share of three-word runs that stood earlier in the answer.
    """
    text = answer.strip()
    words = [word.lower() for word in _WORD.findall(text)]
    runs = list(zip(words, words[1:], words[2:], strict=False))
    fewest, most = WORDS
    cost = {
        "ended": 0.0 if ended else 4.0,
        "stop": 0.0 if _LAST_STOP.search(text) else 1.0,
        "short": max(0, fewest - len(words)) ** 2 / 8,
        "long": _doublings(len(words), most),
        "sentences": _doublings(len(_SENTENCE_END.findall(text)), SENTENCES),
        "layout": math.log2(1 + len(_LAYOUT.findall(text))),
        "repeats": 6 * (1 - len(set(runs)) / len(runs)) if runs else 0.0,
    }
    return {name: 0.0 - value for name, value in cost.items()}  # 0.0 - 0.0 is 0.0, never -0.0


def _doublings(count: int, enough: int) -> float:
    """Count how many times over enough there is, in doublings: 0 up to enough, 1 at twice it."""
    return math.log2(max(count, enough) / enough)


def reward(completions: list[str], **_: object) -> list[float]:
    """The rule as a reward of sampled answers; what an answer that was cut costs is not in it."""
    return [score(answer, ended=True) for answer in completions]
