"""What a conversation holds and its template does not write, or writes otherwise than was asked.

Nobody would see it: the answer to a prompt without its tools, or without what was thought, is as
well formed as any. So each conversation with such things is rendered again without them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from alignax.core.records import Message
from alignax.data import beside
from alignax.data.bad_rows import BadRow
from alignax.data.rendering import PROBE, Template

ANOTHER = "give another template as data.chat_template, or set on_bad_row='drop'."


class Change(NamedTuple):
    """A turn with something else, or nothing, in place of what its template should write."""

    turn: Message
    reason: str
    what: str
    remedy: str


def check(
    template: Template, turns: tuple[Message, ...], start: int, text: str, origin: str, *, ask: bool
) -> None:
    """Refuses a conversation of which the template leaves something out.

    Of a turn it must write the thoughts, each call by name and arguments, the words beside them,
    and what a tool has answered; before all of them, where `start` is 0, the tools. Thoughts of a
    prompt may be left out by a template that writes those of a last answer: it forgets them in use
    too, and `forgotten` counts them.

    Args:
        start: the first turn that is looked at.
        text: what the template makes of the turns, at least up to the last answer.
        ask: whether the header of an answer is at its end, so that all turns are a prompt.

    Raises:
        BadRow: with the name of what is lost.
    """
    if turns and turns[0].tools and start == 0:
        bare = (turns[0]._replace(tools=""), *turns[1:])
        if _same(template, bare, text, ask):
            raise BadRow(
                "tools",
                "a chat template that writes the tools of a row",
                f"one that writes the same without them: {turns[0].tools[:60]}",
                "Write them into the system turn, as the model should see them, and remove the "
                f"column; if it is for a reward alone, rename it; or {ANOTHER}",
                where=origin,
            )
    for i in range(start, len(turns)):
        for change in _changes(turns[i]):
            if not _same(template, (*turns[:i], change.turn, *turns[i + 1 :]), text, ask):
                continue
            if ask and change.what in beside.THOUGHTS and template.writes(change.what):
                continue
            raise BadRow(
                change.reason,
                f"a chat template that writes {change.what}",
                f"one that leaves it out in turn {i + 1}, of the {turns[i].role}",
                change.remedy,
                where=origin,
            )


def forgotten(template: Template, turns: tuple[Message, ...], origin: str) -> int:
    """How many turns of a prompt have thoughts that the template leaves out."""
    count, text = 0, None
    for i, turn in enumerate(turns):
        if not turn.more:
            continue
        for change in _changes(turn):
            if change.what in beside.THOUGHTS:
                text = template.render(turns, origin, ask=True) if text is None else text
                changed = (*turns[:i], change.turn, *turns[i + 1 :])
                count += _same(template, changed, text, ask=True)
    return count


def rewritten(part: str, whole: str, origin: str) -> BadRow:
    """The refusal of a conversation that does not begin as its prompt does.

    Args:
        part: what `whole` should begin with.
    """
    same = next((i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), 0)
    return BadRow(
        "rewritten by the chat template",
        f"a conversation to begin as its prompt does, with {part[same : same + 30]!r} "
        f"at character {same}",
        repr(whole[same : same + 30]),
        "The template rewrites earlier turns, so a prompt in training is not the prompt in use. "
        "Put all turns but the last into the prompt (for SFT data.scored_turns='last' does), give "
        "another template as data.chat_template, or set on_bad_row='drop'.",
        where=origin,
    )


def _same(template: Template, turns: tuple[Message, ...], text: str, ask: bool) -> bool:
    """Whether a changed conversation is written as the other was. To refuse it is to see it."""
    try:
        return template.render(turns, "", ask=ask) == text
    except BadRow:
        return False


def _changes(turn: Message) -> Iterator[Change]:
    if turn.role == "tool":
        remedy = f"Write it as a turn of the user, {ANOTHER}"
        other = turn._replace(content=PROBE)
        yield Change(other, "turn of a tool", "what a tool has answered", remedy)
    if not turn.more:
        return
    more = turn.as_dict()
    for key in (key for key in beside.THOUGHTS if key in more):
        remedy = f"Write the thoughts into content, as the model should print them, or remove {key}"
        yield Change(_without(turn, key), "reasoning", key, f"{remedy}; or {ANOTHER}")
    remedy = f"Write the calls into content, as the model should print them; or {ANOTHER}"
    calls = more.get("tool_calls", [])
    for i, call in enumerate(calls):
        for key, other in _other_calls(call):
            found = [*calls[:i], other, *calls[i + 1 :]]
            what = f"tool_calls[{i}].{key}"
            yield Change(_with(turn, "tool_calls", found), "tool calls", what, remedy)
    if "function_call" in more:
        without = _without(turn, "function_call")
        yield Change(without, "tool calls", "function_call", remedy)
    if turn.role == "assistant" and turn.content.strip():
        what = "content beside tool_calls" if calls else "content"
        other = turn._replace(content=PROBE)
        yield Change(other, "content left out", what, f"Remove the content; or {ANOTHER}")


def _other_calls(call: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The call with another name, and with other arguments if it has any."""
    inner = call.get("function")
    function = inner if isinstance(inner, Mapping) else call
    probes: dict[str, Any] = {"name": PROBE}
    if function.get("arguments") not in (None, "", "{}", {}):
        probes["arguments"] = {PROBE: PROBE}
    for key, probe in probes.items():
        other = {**function, key: probe}
        yield key, {**call, "function": other} if function is inner else other


def _without(turn: Message, key: str) -> Message:
    more = {k: x for k, x in beside.loaded(turn).items() if k != key}
    return turn._replace(more=beside.as_json(more, "", "") if more else "")


def _with(turn: Message, key: str, value: Any) -> Message:
    return turn._replace(more=beside.as_json({**beside.loaded(turn), key: value}, "", ""))
