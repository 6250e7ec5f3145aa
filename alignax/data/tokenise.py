"""From groups of texts to arrays of token ids, within limits; what is lost is counted."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from alignax.core.errors import BadInput
from alignax.core.records import Group
from alignax.core.setting_types import setting
from alignax.data.bad_rows import BadRow, OnBadRow, Tally
from alignax.data.chat import Rendered, Renderer, Segment
from alignax.data.fields import is_blank
from alignax.data.joining import REACH
from alignax.data.token_report import TokenReport

CHUNK = 1024  # groups to one call of the tokenizer, which spreads them over its threads
NOTHING_SCORED = "response without a scored token"
EQUAL = "responses of the same tokens"


class Example(NamedTuple):
    """One prompt and its k responses as token ids, nothing padded.

    Fields:
        prompt: token ids, BOS included where there is one.
        responses: of all k end to end.
        response_lengths: in tokens.
        mask: True on tokens that are scored, aligned with `responses`.
        scores: one number a response.
        origin: `file:line`.
        attributes: further numbers a response, where there are any; NaN where one is missing.
        ended: False on responses that broke off and have no end of turn; None if all are whole.
    """

    prompt: Int32[np.ndarray, " p"]
    responses: Int32[np.ndarray, " n"]
    response_lengths: Int32[np.ndarray, " k"]
    mask: Bool[np.ndarray, " n"]
    scores: Float32[np.ndarray, " k"]
    origin: str
    attributes: Float32[np.ndarray, "k c"] | None = None
    ended: Bool[np.ndarray, " k"] | None = None

    def split(self) -> list[tuple[Int32[np.ndarray, " r"], Bool[np.ndarray, " r"]]]:
        """Token ids and mask of each response."""
        ends = np.cumsum(self.response_lengths)
        starts = ends - self.response_lengths
        return [(self.responses[i:j], self.mask[i:j]) for i, j in zip(starts, ends, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLimits:
    """How long a group may be, in tokens.

    Fields:
        max_length: of the prompt and the longest response together.
        max_prompt_length, max_completion_length: of each alone.
        overlong: what happens to a longer one. "cut": a response keeps its start, and so loses its
            end-of-turn token; a prompt without a template keeps its end. A prompt rendered by a
            chat template is never cut, because half a template is no prompt: its group is dropped.
    """

    max_length: int = setting(1024, at_least=1)
    max_prompt_length: int | None = setting(None, at_least=1)
    max_completion_length: int | None = setting(None, at_least=1)
    overlong: Literal["drop", "cut", "refuse"] = "drop"


class _Ids(NamedTuple):
    """A prompt's ids, and for each response its ids and its mask."""

    prompt: list[int]
    responses: list[tuple[list[int], list[bool]]]

    @property
    def longest(self) -> int:
        """Tokens of the longest response."""
        return max((len(ids) for ids, _ in self.responses), default=0)

    def __str__(self) -> str:
        return f"{len(self.prompt)} + {self.longest} tokens"


class _Lost(Exception):
    """A group that does not fit; `reason` is what it is counted under."""

    def __init__(self, reason: str):
        self.reason = reason


def tokenise(
    groups: Iterable[Group],
    renderer: Renderer,
    limits: TokenLimits,
    *,
    on_bad_row: OnBadRow = "refuse",
    empty: bool = False,
) -> tuple[list[Example], TokenReport]:
    """Token ids of every group that fits the limits, in order, and the count of all others.

    Args:
        groups: as `Method.group` makes them.
        on_bad_row: whether a conversation that cannot be rendered stops the work, or is dropped
            and counted.
        empty: whether a response of no tokens is kept, as its end alone; else it is dropped.

    Raises:
        BadInput: at `file:line`, with `overlong="refuse"` or `on_bad_row="refuse"`.

    Example (one id a letter, end-of-turn 9, a conversation that goes on after the first answer):
        prompt            [1 2 3]
        responses         [4 5 9 6 7 9 8 9]     the second response is [8 9]
        response_lengths  [6 2]
        mask              [T T T F F T T T]     6 7 is the user's
    """
    examples: list[Example] = []
    cut, dropped, count, blank, broken, forgotten = Tally(), Tally(), 0, 0, 0, 0
    source = iter(groups)
    while chunk := list(itertools.islice(source, CHUNK)):
        count += len(chunk)
        for group, ids in _encode(chunk, renderer, dropped, on_bad_row, empty):
            place = f"{group.origin} ({ids})"
            try:
                fitted, reason = _fit(ids, renderer, limits)
                if group.compared and _all_equal(fitted):
                    raise _Lost(EQUAL)
            except _Lost as lost:
                if limits.overlong == "refuse" and lost.reason not in (NOTHING_SCORED, EQUAL):
                    raise BadInput(
                        "a group within the limits",
                        f"{lost.reason} ({ids})",
                        'Raise the limit, or set overlong to "drop" or "cut".',
                        where=group.origin or None,
                    ) from None
                dropped.add(lost.reason, place)
                continue
            if reason:
                cut.add(reason, place)
            examples.append(_example(fitted, group))
            blank += sum(
                is_blank(text) or renderer.end_ids.issuperset(tokens)
                for text, (tokens, _) in zip(group.responses, fitted.responses, strict=True)
            )
            broken += sum(text in group.cut for text in group.responses)
            forgotten += renderer.forgotten(group.prompt)
    report = TokenReport(
        groups=count,
        kept=len(examples),
        cut=cut,
        dropped=dropped,
        prompt_tokens=sum(len(example.prompt) for example in examples),
        response_tokens=sum(len(example.responses) for example in examples),
        scored_tokens=sum(int(example.mask.sum()) for example in examples),
        longest=max((_reach(example) for example in examples), default=0),
        empty=blank,
        cut_off=broken,
        forgotten=forgotten,
    )
    return examples, report


def _encode(
    groups: Sequence[Group], renderer: Renderer, dropped: Tally, on_bad_row: OnBadRow, empty: bool
) -> Iterator[tuple[Group, _Ids]]:
    """Ids and masks of the groups that can be rendered, all texts in two calls."""
    drafts: list[tuple[Group, Rendered]] = []
    for group in groups:
        try:
            rendered = renderer.render(group.prompt, group.responses, group.origin, cut=group.cut)
            drafts.append((group, rendered))
        except BadRow as defect:
            if on_bad_row == "refuse":
                raise
            dropped.add(defect.reason, group.origin)
    prompts = renderer.prompt_ids([rendered.prompt for _, rendered in drafts])
    pieces: list[str] = []
    after: list[str] = []
    for _, rendered in drafts:
        for response in rendered.responses:
            before = rendered.prompt
            for segment in response:
                pieces.append(segment.text)
                after.append(before[-REACH:])
                before = segment.text if len(segment.text) >= REACH else after[-1] + segment.text
    piece_ids = iter(renderer.continuation_ids(pieces, after))
    for (group, rendered), prompt in zip(drafts, prompts, strict=True):
        joined = [
            _join(response, piece_ids, renderer, empty, text in group.cut)
            for text, response in zip(group.responses, rendered.responses, strict=True)
        ]
        yield group, _Ids(prompt, joined)


def _join(
    response: Sequence[Segment],
    piece_ids: Iterator[list[int]],
    renderer: Renderer,
    empty: bool,
    cut: bool,
) -> tuple[list[int], list[bool]]:
    """One response's ids and mask, ended by an end-of-turn token whether it had one or not.

    One that broke off has none.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for segment in response:
        piece = next(piece_ids)
        ids += piece
        mask += [segment.scored] * len(piece)
    if not cut and (ids[-1] not in renderer.end_ids if ids else empty):
        ids.append(renderer.end_id)
        mask.append(True)
    return ids, mask


def _fit(ids: _Ids, renderer: Renderer, limits: TokenLimits) -> tuple[_Ids, str]:
    """The group within the limits, and why it was cut, if it was."""
    reason = _excess(ids, limits)
    if reason and limits.overlong != "cut":
        raise _Lost(reason)
    if reason:
        prompt = ids.prompt
        if renderer.template == "none":
            prompt = _keep_end(prompt, _prompt_room(ids, limits), renderer)
        room = limits.max_length - len(prompt)
        if room < min(1, ids.longest) or len(prompt) > (limits.max_prompt_length or len(prompt)):
            raise _Lost("prompt that leaves no room for a response and cannot be cut")
        if limits.max_completion_length is not None:
            room = min(room, limits.max_completion_length)
        ids = _Ids(prompt, [(tokens[:room], mask[:room]) for tokens, mask in ids.responses])
    if not all(any(mask) for _, mask in ids.responses):
        raise _Lost(NOTHING_SCORED)
    return ids, reason


def _all_equal(ids: _Ids) -> bool:
    """Whether nothing is left to compare: a template trims, or a cut took the difference away."""
    first, *others = ids.responses
    return bool(others) and all(other == first for other in others)


def _excess(ids: _Ids, limits: TokenLimits) -> str:
    """Which limit a group exceeds, in words; empty if none."""
    lengths = (
        ("max_prompt_length", "prompt", len(ids.prompt), limits.max_prompt_length),
        ("max_completion_length", "response", ids.longest, limits.max_completion_length),
        ("max_length", "prompt and response", len(ids.prompt) + ids.longest, limits.max_length),
    )
    for name, part, length, limit in lengths:
        if limit is not None and length > limit:
            return f"{part} longer than {name}={limit}"
    return ""


def _prompt_room(ids: _Ids, limits: TokenLimits) -> int:
    """What the longest response leaves of the window, but at least half of it."""
    longest = min(ids.longest, limits.max_completion_length or ids.longest)
    room = max(limits.max_length - longest, limits.max_length // 2)
    return min(room, limits.max_prompt_length or room)


def _keep_end(prompt: list[int], room: int, renderer: Renderer) -> list[int]:
    """The last `room` tokens of a prompt, with what the tokenizer opens every text with."""
    if len(prompt) <= room:
        return prompt
    (opening,) = renderer.prompt_ids([""])
    return opening + prompt[len(prompt) - max(room - len(opening), 0) :]


def _example(ids: _Ids, group: Group) -> Example:
    ended = np.array([text not in group.cut for text in group.responses], bool)
    return Example(
        prompt=np.array(ids.prompt, np.int32),
        responses=np.array([i for tokens, _ in ids.responses for i in tokens], np.int32),
        response_lengths=np.array([len(tokens) for tokens, _ in ids.responses], np.int32),
        mask=np.array([scored for _, mask in ids.responses for scored in mask], bool),
        scores=np.array(group.scores, np.float32),
        origin=group.origin,
        attributes=np.array(group.attributes, np.float32) if group.attributes else None,
        ended=None if ended.all() else ended,
    )


def _reach(example: Example) -> int:
    return len(example.prompt) + int(max(example.response_lengths, default=0))
