"""Token ids of a text that goes on where another ended, and such ids as text.

A response is tokenised apart from its prompt, as it is when it is sampled, and yet as the
tokenizer writes it behind that prompt. What stands before matters: a tokenizer in the manner of
SentencePiece begins a text with a space, and so it does after a special token; and some special
tokens swallow the spaces and newlines behind them.
"""

import re
from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

from alignax.data.tokenizers import encode

REACH = 96  # characters looked back for a special token; headers of turns are shorter


def continuation_ids(
    tokenizer: PreTrainedTokenizerBase,
    special: re.Pattern[str],
    texts: Sequence[str],
    after: Sequence[str],
) -> list[list[int]]:
    """Token ids of each text behind the one that it goes on from.

    A text is encoded together with what stands before it, back to the last special token, and the
    ids of that are taken away again. Where they are not there as they were, a token has grown over
    the border (a header's newline and one more); a model that is asked cannot write half a token,
    so there the text is encoded by itself.

    Args:
        special: finds any special token.
        texts: such as responses.
        after: for each, what it goes on from, or the end of it.
    """
    usual = _newline(tokenizer)
    tails = [_tail(before, special, usual) for before in after]
    known = dict(zip(dict.fromkeys(tails), encode(tokenizer, [*dict.fromkeys(tails)]), strict=True))
    rows = encode(tokenizer, [tail + text for tail, text in zip(tails, texts, strict=True)])
    grown = []
    for i, (row, tail) in enumerate(zip(rows, tails, strict=True)):
        start = known[tail]
        if row[: len(start)] == start:
            rows[i] = row[len(start) :]
        else:
            grown.append(i)
    again = encode(tokenizer, [f"{usual}{texts[i]}" for i in grown])
    skipped = len(encode(tokenizer, [usual])[0]) if usual else 0
    for i, row in zip(grown, again, strict=True):
        rows[i] = row[skipped:]
    return rows


def continuation_texts(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[Sequence[int]],
    end_ids: Collection[int],
    *,
    first_space: bool,
) -> list[str]:
    """Responses as texts, without special tokens and without the token that ended them.

    Args:
        ids: of each response.
        end_ids: tokens that end one. A tokenizer need not call them special: an id of these that
            is the last is left out by itself.
        first_space: whether a space that a response begins with is part of its text. Decoders in
            the manner of SentencePiece drop it at the start of a text; so each is decoded behind
            another one, which is taken away again.
    """
    said = [[*row[:-1]] if len(row) and row[-1] in end_ids else [*row] for row in ids]
    before = encode(tokenizer, ["a"])[0] if first_space else []
    lead, *texts = tokenizer.batch_decode(
        [before, *(before + row for row in said)], skip_special_tokens=True
    )
    return [text.removeprefix(lead) for text in texts]


def _tail(before: str, special: re.Pattern[str], usual: str) -> str:
    """The end of a text from its last special token on; a usual one where none is near."""
    near = before[-REACH:]
    starts = [found.start() for found in special.finditer(near)]
    return near[starts[-1] :] if starts else usual


def _newline(tokenizer: PreTrainedTokenizerBase) -> str:
    """What to put before a text so that no space is put there: a newline, or nothing.

    No piece of a SentencePiece vocabulary goes over a newline, and behind one no space is added.
    """
    ids = encode(tokenizer, ["a", "\n", "\na"])
    first = tokenizer.convert_ids_to_tokens(ids[0])[0]
    return "\n" if first.startswith("▁") and ids[2][: len(ids[1])] == ids[1] else ""
