"""What a completions server answers, read with suspicion.

A proxy in front of a server that restarts gives pages in place of answers, and a server that runs
out of memory gives half of one. So whatever is not as it should be is `Malformed`, and asked again.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alignax.core.errors import BadInput

SHOWN = 200  # characters of an answer in a message


class Malformed(Exception):
    """An answer that cannot be used; says what came."""


class Choice(NamedTuple):
    """One sample as the server gave it.

    Fields:
        tokens: ids, where the server told them, with or without the token that ended the sample.
        text: without the token that ended it.
        ended: whether it ended by itself; otherwise it reached its length.
        end: the id that ended it, where the server named it.
    """

    tokens: list[int] | None
    text: str
    ended: bool
    end: int | None


def beginning(content: bytes) -> str:
    """The server's own message where there is one, otherwise how the content begins."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        # OpenAI and vLLM nest it; SGLang and older vLLM do not; FastAPI calls it a detail.
        error = answer.get("error")
        for message in (
            error.get("message") if isinstance(error, dict) else error,
            answer.get("message"),
            answer.get("detail"),
        ):
            if isinstance(message, str) and message:
                return _short(message)
    text = content.decode(errors="replace")
    return repr(_short(text)) if text.strip() else "nothing"


def choices(
    content: bytes, *, count: int, max_new_tokens: int, vocab_size: int | None
) -> list[Choice]:
    """The samples of one answer, in their order.

    Args:
        count: how many were asked for.
        max_new_tokens: how long each may be, in tokens.
        vocab_size: ids are below it; None takes all.

    Raises:
        Malformed: not JSON, not so many choices, or a choice without a text, with an end other than
            "stop" or "length" (an aborted sample is no sample), or with ids that cannot be.
    """
    rows = _list(content, "choices")
    if len(rows) != count:
        raise Malformed(f"{len(rows)} choices in place of {count}: {beginning(content)}")
    if not all(isinstance(row, dict) for row in rows):
        raise Malformed(f"choices that are not objects: {beginning(content)}")
    places = [row.get("index", i) for i, row in enumerate(rows)]
    if not all(isinstance(i, int) for i in places) or sorted(places) != list(range(count)):
        raise Malformed(f"choices with the indices {_short(str(places))}")
    ordered = [row for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])]
    return [_choice(row, max_new_tokens, vocab_size) for row in ordered]


def model_names(content: bytes) -> list[str]:
    """The models that a server lists.

    Raises:
        Malformed: not JSON, or not a list of models.
    """
    rows = _list(content, "data")
    names = [row.get("id") for row in rows if isinstance(row, dict)]
    return [name for name in names if isinstance(name, str)]


def response(
    choice: Choice,
    *,
    max_new_tokens: int,
    end_ids: Sequence[int],
    encode: Callable[[str], list[int]],
    where: str,
) -> tuple[list[int], bool]:
    """The tokens of a sample as our own sampler would give them, and whether it ended.

    An end-of-turn token stands at the end of those that ended, and nowhere else. A text may need
    more tokens than were drawn, since it can be encoded in several ways; it is then cut.

    Raises:
        BadInput: the server went on after an end-of-turn token.
    """
    ended = choice.ended
    tokens = list(choice.tokens) if choice.tokens is not None else encode(choice.text)
    place = next((i for i, token in enumerate(tokens) if token in end_ids), len(tokens) - 1)
    if place < len(tokens) - 1 and choice.tokens is not None:
        raise BadInput(
            "responses that stop at the first end-of-turn token",
            f"{tokens[place]} at place {place} of {len(tokens)} tokens",
            "The server does not heed stop_token_ids: let its model's generation config name "
            f"{list(end_ids)} as eos_token_id.",
            where=where,
        )
    tokens = tokens[: place + 1]
    if ended and end_ids and (not tokens or tokens[-1] not in end_ids):
        end = choice.end
        tokens.append(end_ids[0] if end is None or end not in end_ids else end)
    tokens = tokens[:max_new_tokens]
    if end_ids:
        ended = bool(tokens) and tokens[-1] in end_ids
    return tokens, ended


def _list(content: bytes, name: str) -> list[Any]:
    """The list of that name in an object of JSON."""
    try:
        answer = json.loads(content)
    except ValueError:
        raise Malformed(f"what is not JSON: {beginning(content)}") from None
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise Malformed(f"an answer without a list of {name}: {beginning(content)}")
    return found


def _choice(row: dict[str, Any], max_new_tokens: int, vocab_size: int | None) -> Choice:
    text, reason = row.get("text"), row.get("finish_reason")
    if not isinstance(text, str):
        raise Malformed(f"a choice without a text: {_short(json.dumps(row))}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Malformed(f"half a surrogate pair in the text {_short(json.dumps(text))}")
    if reason not in ("stop", "length"):
        raise Malformed(f"a choice with the finish_reason {reason!r}")
    tokens = _ids(row)
    if tokens is not None:
        for token in tokens:
            if not _is_id(token) or (vocab_size is not None and token >= vocab_size):
                size = "" if vocab_size is None else f" of a vocabulary of {vocab_size}"
                raise Malformed(f"{_short(repr(token))} in place of a token id{size}")
        if len(tokens) > max_new_tokens:
            raise Malformed(f"{len(tokens)} tokens in place of at most {max_new_tokens}")
    # vLLM and SGLang name the stopping token so; either may be a string, or null for the eos token.
    named = (row.get(key) for key in ("stop_reason", "matched_stop"))
    end = next((token for token in named if _is_id(token)), None)
    return Choice(tokens, text, reason == "stop", end)


def _ids(row: dict[str, Any]) -> list[Any] | None:
    """The ids that the server drew, if it tells them: by themselves, or as names of tokens."""
    tokens = row.get("token_ids")
    if isinstance(tokens, list):
        return tokens
    logprobs = row.get("logprobs")
    names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    prefix = "token_id:"
    if not isinstance(names, list) or not names:
        return None
    if not all(isinstance(name, str) and name.startswith(prefix) for name in names):
        return None
    numbers = [name.removeprefix(prefix) for name in names]
    return [int(number) if number.isdecimal() else number for number in numbers]


def _is_id(token: Any) -> bool:
    return isinstance(token, int) and not isinstance(token, bool) and token >= 0


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
