"""What prepared data say of what will be learnt from them: for people, and never an error."""

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32, UInt64

from alignax.core.records import Message, Text
from alignax.data.plan import Lengths
from alignax.data.tokenise import Example

FAR = 2.0  # how many times as long chosen responses may be as rejected ones, or these as those


def digest(*ids: np.ndarray) -> int:
    """64 bits of some texts as token ids, in order; alike for others once in 2^64."""
    found = hashlib.blake2b(digest_size=8)
    for part in ids:
        found.update(len(part).to_bytes(8, "little"))
        found.update(np.ascontiguousarray(part, np.int32).tobytes())
    return int.from_bytes(found.digest(), "little")


def digests(examples: Sequence[Example]) -> UInt64[np.ndarray, "g 3"]:
    """Of each group: its prompt; its prompt, first and last response; its prompt, last and first.

    So two pairs that contradict each other have the second and the third number exchanged.
    """
    made = np.zeros((len(examples), 3), np.uint64)
    for i, example in enumerate(examples):
        responses = [ids for ids, _ in example.split()]
        first, last = responses[0], responses[-1]
        made[i] = (
            digest(example.prompt),
            digest(example.prompt, first, last),
            digest(example.prompt, last, first),
        )
    return made


def content(examples: Sequence[Example]) -> str:
    """Hex SHA-256 of all tokens, and of which are scored."""
    found = hashlib.sha256()
    for x in examples:
        found.update(np.array([len(x.prompt), len(x.response_lengths)], np.int64).tobytes())
        for array in (x.prompt, x.response_lengths, x.responses, x.mask):
            found.update(array.tobytes())
    return found.hexdigest()


def highest(examples: Iterable[Example]) -> Int32[np.ndarray, " g"]:
    """The highest token id of each group, of its prompt and all responses."""
    found = [max(x.prompt.max(initial=0), x.responses.max(initial=0)) for x in examples]
    return np.array(found, np.int32)


def asked(prompt: Text) -> int:
    """64 bits of a prompt as its row has it; a string is the user's one turn."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    found = hashlib.blake2b(json.dumps(turns).encode(), digest_size=8)
    return int.from_bytes(found.digest(), "little")


def of_pairs(lengths: Lengths, marks: UInt64[np.ndarray, "g 3"]) -> list[str]:
    """How long the chosen and the rejected responses are, and how many pairs contradict others.

    Args:
        lengths: of the pairs, chosen first.
        marks: of the pairs, as `digests` gives them.

    Returns:
        Lines with rich's markup.
    """
    chosen, rejected = lengths.scored.mean(axis=0)
    said = f"[bold]pairs[/]: scored tokens, mean: chosen {chosen:.1f}, rejected {rejected:.1f}"
    if max(chosen, rejected) > FAR * min(chosen, rejected):
        said += f"; [yellow]more than {FAR:g} times as many: length is what would be learnt[/]"
    _, forth, back = marks.T
    opposed = int((np.isin(forth, back) & (forth != back)).sum())
    if not opposed:
        return [said]
    return [
        said,
        f"[yellow]contradictions[/]: {opposed:,} of {len(marks):,} pairs have their opposite "
        "beside them, the same two responses with the other one chosen",
    ]


def of_prompts(train: Iterable[int], held_out: Iterable[int]) -> list[str]:
    """How many held-out prompts are learnt from too, where any are.

    Args:
        train, held_out: `digest` of each prompt; those that are there more than once count once.

    Returns:
        Lines with rich's markup.
    """
    asked = set(held_out)
    both = len(asked.intersection(train))
    if not both:
        return []
    return [
        f"[yellow]held out[/]: {both:,} of {len(asked):,} prompts ({both / len(asked):.1%}) are "
        "in the training data too"
    ]
