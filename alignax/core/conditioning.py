"""Telling a model in words what answer is wanted, in the chat template's own terms.

What is asked for goes to the end of the last user turn, next to the answer: every template has
user turns, and some refuse system turns. No special tokens are added.
"""

import re
from collections.abc import Mapping

from alignax.core.records import Text

SCORE_MARK = "<rm_score>:"
ATTRIBUTES_MARK = "<attributes>:"
PAIR = re.compile(r"([^\s,:]+):(-?\d+)")


def with_request(prompt: Text, request: str) -> Text:
    """The prompt with a request after its last words.

    A string gets a space after the request too, because the answer follows at once; of a
    conversation, it is the last turn that is not the system's.
    """
    if isinstance(prompt, str):
        return f"{prompt} {request} "
    last = max(i for i, turn in enumerate(prompt) if turn.role != "system")
    turn = prompt[last]._replace(content=f"{prompt[last].content} {request}")
    return (*prompt[:last], turn, *prompt[last + 1 :])


def score_request(score: float) -> str:
    """A score as a Decision Transformer is asked for it, with two decimals.

    Example:
        >>> score_request(-0.304), score_request(5.0), score_request(-0.001)
        ('<rm_score>: -0.30', '<rm_score>: 5.00', '<rm_score>: 0.00')
    """
    return f"{SCORE_MARK} {round(score, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"


def attributes_request(attributes: Mapping[str, float | int]) -> str:
    """Attributes as SteerLM is asked for them: whole numbers, in the order given.

    Example:
        >>> attributes_request({"quality": 3.67, "toxicity": 0})
        '<attributes>: quality:4,toxicity:0'
    """
    pairs = (f"{name}:{round(value)}" for name, value in attributes.items())
    return f"{ATTRIBUTES_MARK} {','.join(pairs)}"


def read_request(text: str) -> float | dict[str, int] | None:
    """What a text asks for: a score, attributes, or nothing.

    Example:
        >>> read_request("Why? <rm_score>: -0.30 "), read_request("Why?")
        (-0.3, None)
        >>> read_request("Why? <attributes>: quality:4,toxicity:0")
        {'quality': 4, 'toxicity': 0}
    """
    if SCORE_MARK in text:
        return float(text.rpartition(SCORE_MARK)[2].split()[0])
    if ATTRIBUTES_MARK in text:
        found = PAIR.findall(text.rpartition(ATTRIBUTES_MARK)[2])
        return {name: int(value) for name, value in found}
    return None
