"""What must be true of tokens before the first step, and a way to look at them.

A wrong BOS or a missing end-of-turn raises no error anywhere and spoils a run; so it is looked
for, by default, in examples taken evenly from the whole data set. An id that the model has no
embedding for raises none either, for JAX takes its last row: that is looked for in all.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int
from rich import box
from rich.console import Group as Stack
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from alignax.core.errors import BadInput
from alignax.data.chat import Renderer
from alignax.data.prepared import Prepared
from alignax.data.prompts import Prompts, unanswered
from alignax.data.tokenise import Example, TokenLimits

TAIL = 12  # tokens shown of what is wrong
PROMPT, SCORED, UNSCORED, SPECIAL = "dim", "bold green", "yellow", "reverse"


@dataclasses.dataclass(frozen=True)
class Check:
    """A check that passed: what was claimed, and of how much it was found true."""

    claim: str
    found: str


def preflight(
    prepared: Prepared, renderer: Renderer, *, vocab_size: int, sample: int = 256
) -> list[Check]:
    """Checks the tokens of a data set; raises at the first that is wrong.

    Args:
        prepared: the data set.
        renderer: what it was rendered with.
        vocab_size: rows of the model's embedding.
        sample: examples looked at, taken evenly from first to last; ids are looked at in all.

    Raises:
        BadInput: with `file:line` and the tokens in question.
    """
    places = np.linspace(0, len(prepared) - 1, min(sample, len(prepared))).astype(int)
    examples = [prepared[int(i)] for i in places]
    checks = check_tokens(examples, renderer, prepared.limits, vocab_size=vocab_size)
    beyond = np.flatnonzero(prepared.highest >= vocab_size)
    check_vocabulary((prepared[int(i)] for i in beyond[:1]), renderer, vocab_size=vocab_size)
    tokens, bad = prepared.tokens, prepared.records.dropped.total
    lost, of = bad + tokens.dropped.total + tokens.cut.total, bad + tokens.groups
    return [
        *(check for check in checks if check.claim != _VOCABULARY),
        Check(_VOCABULARY, f"{len(prepared):,} of {len(prepared):,} examples"),
        Check(
            "dropped or cut",
            f"{lost / max(of, 1):.1%} of {of:,}: "
            + (f"bad rows {bad:,}, " if bad else "")
            + f"dropped {tokens.dropped.total:,}, cut {tokens.cut.total:,}",
        ),
    ]


def check_tokens(
    examples: Sequence[Example], renderer: Renderer, limits: TokenLimits, *, vocab_size: int
) -> list[Check]:
    """The checks that look at tokens, on examples from anywhere.

    Raises:
        BadInput: with the example's origin and the tokens in question.
    """
    found = f"{len(examples):,} of {len(examples):,} examples"
    checks = []
    for claim, check in _CHECKS.items():
        for example in examples:
            if fault := check(example, renderer, limits, vocab_size):
                raise _told(claim, fault, renderer, example.origin)
        checks.append(Check(claim, found))
    if renderer.bos_at_start is None:
        name = renderer.tokenizer.bos_token
        checks[0] = Check(checks[0].claim, f"none twice in a row; {name} also opens or ends turns")
    return checks


def check_vocabulary(examples: Iterable[Example], renderer: Renderer, *, vocab_size: int) -> None:
    """Checks that the model has a row for each id, of every example and of what ends a turn.

    Raises:
        BadInput: with the example's origin and the tokens in question.
    """
    for example in examples:
        if fault := _in_vocabulary(example, renderer, _NO_LIMITS, vocab_size):
            raise _told(_VOCABULARY, fault, renderer, example.origin)
    if fault := _beyond(np.array(sorted(renderer.end_ids)), vocab_size):
        fault = dataclasses.replace(fault, what=f"{fault.what}, which end a turn")
        raise _told(_VOCABULARY, fault, renderer)


def check_prompts(prompts: Prompts, renderer: Renderer, *, vocab_size: int) -> None:
    """The checks that can be made of prompts alone, before they are answered; of every one.

    Raises:
        BadInput: with the prompt's origin and the tokens in question.
    """
    examples = [unanswered(*one) for one in zip(prompts.ids, prompts.origins, strict=True)]
    check_vocabulary(examples, renderer, vocab_size=vocab_size)
    for example in examples:
        if fault := _bos(example, renderer, _NO_LIMITS, vocab_size):
            raise _told(_ONE_BOS, fault, renderer, example.origin)


def table(checks: Sequence[Check]) -> Table:
    """The checks that passed, for the terminal."""
    rows = Table("preflight", "found", box=box.SIMPLE)
    for check in checks:
        rows.add_row(f"✓ {check.claim}", escape(check.found))
    return rows


def show(example: Example, renderer: Renderer) -> Stack:
    """One example token by token: prompt dim, scored tokens green, unscored ones yellow.

    Special tokens are reversed and newlines made visible. A scored token ends with a whole bar,
    an unscored one with a broken bar, for where there are no colours.
    """
    blocks = [
        Text(example.origin, style="bold"),
        Text(f"prompt, {len(example.prompt)} tokens", style="underline"),
        marked_tokens(example.prompt, np.zeros(len(example.prompt), bool), renderer),
    ]
    for i, (ids, mask) in enumerate(example.split()):
        cut = "" if example.ended is None or example.ended[i] else "broke off, "
        head = f"response {i + 1}, {len(ids)} tokens, {mask.sum()} scored, {cut}"
        blocks.append(Text(f"{head}score {example.scores[i]:g}", style="underline"))
        blocks.append(marked_tokens(ids, mask, renderer, UNSCORED))
    return Stack(*blocks)


@dataclasses.dataclass(frozen=True)
class _Fault:
    what: str
    tokens: Int[np.ndarray, " n"]
    remedy: str


def _bos(
    example: Example, renderer: Renderer, limits: TokenLimits, vocab_size: int
) -> _Fault | None:
    wanted, bos = renderer.bos_at_start, renderer.tokenizer.bos_token_id
    if bos is None:
        return None
    borders = np.cumsum(example.response_lengths)[:-1]
    for ids in (example.prompt, *np.split(example.responses, borders)):
        if ((ids[1:] == bos) & (ids[:-1] == bos)).any():
            remedy = "Remove it from the texts, or from the chat template."
            return _Fault("two of them in a row", ids[:TAIL], remedy)
    everywhere = np.concatenate([example.prompt, example.responses])
    if wanted is None:
        return None
    count = int((everywhere == bos).sum())
    if count == int(wanted) and (not wanted or everywhere[0] == bos):
        return None
    return _Fault(
        f"{count} of them where {int(wanted)} should be",
        everywhere[everywhere == bos] if count > 1 else everywhere[:TAIL],
        "Look for BOS in the texts themselves, or in the chat template.",
    )


def _not_empty(
    example: Example, renderer: Renderer, limits: TokenLimits, vocab_size: int
) -> _Fault | None:
    if len(example.prompt) and (example.response_lengths > 0).all():
        return None
    sizes = f"{len(example.prompt)} and {example.response_lengths.tolist()} tokens"
    return _Fault(sizes, example.prompt[-TAIL:], "Remove the row.")


def _aligned(
    example: Example, renderer: Renderer, limits: TokenLimits, vocab_size: int
) -> _Fault | None:
    total, k = int(example.response_lengths.sum()), len(example.response_lengths)
    sizes = (len(example.responses), len(example.mask), len(example.scores))
    tail, remedy = example.responses[-TAIL:], "Remove the cached data set and prepare it again."
    if sizes != (total, total, k):
        what = "{} tokens, {} of mask, {} scores".format(*sizes)
        return _Fault(f"{what} for {k} responses of {total} tokens", tail, remedy)
    if not all(mask.any() for _, mask in example.split()):
        return _Fault("a response without one", tail, remedy)
    return None


def _ends(
    example: Example, renderer: Renderer, limits: TokenLimits, vocab_size: int
) -> _Fault | None:
    ends = np.array(sorted(renderer.end_ids))
    for i, (ids, mask) in enumerate(example.split()):
        if example.ended is not None and not example.ended[i]:  # it broke off
            continue
        is_end = np.isin(ids, ends)
        # A cut may fall anywhere, on the end of a user's turn too.
        if not (is_end[-1] and mask[-1]) and _was_cut(example, ids, limits):
            continue
        if not (is_end[-1] and mask[-1]):
            what = "none at the end" if not is_end[-1] else "one that is not scored"
            return _Fault(
                what, ids[-TAIL:], "Let the template close turns; prepare the data again."
            )
        if len(ids) > 1 and is_end[-2]:
            remedy = "Remove the end-of-turn token from the texts: the template writes it."
            return _Fault("more than one", ids[-TAIL:], remedy)
    return None


def _in_vocabulary(
    example: Example, renderer: Renderer, limits: TokenLimits, vocab_size: int
) -> _Fault | None:
    return _beyond(np.concatenate([example.prompt, example.responses]), vocab_size)


def _beyond(ids: Int[np.ndarray, " n"], vocab_size: int) -> _Fault | None:
    bad = ids[(ids < 0) | (ids >= vocab_size)]
    if not bad.size:
        return None
    remedy = "Use the model's own tokenizer, or enlarge its embedding."
    return _Fault(f"ids {bad[:TAIL].tolist()} for {vocab_size} rows", bad[bad >= 0][:TAIL], remedy)


_ONE_BOS = "exactly one BOS where the tokenizer wants one, none elsewhere"
_VOCABULARY = "every token id within the model's vocabulary"
_NO_LIMITS = TokenLimits()  # of what is not learnt from
_CHECKS: dict[str, Callable[[Example, Renderer, TokenLimits, int], _Fault | None]] = {
    _ONE_BOS: _bos,
    "no empty prompt or response": _not_empty,
    "scored tokens in every response, and nowhere else": _aligned,
    "exactly one end-of-turn token, scored, at the end of every response": _ends,
    _VOCABULARY: _in_vocabulary,
}


def _told(claim: str, fault: _Fault, renderer: Renderer, origin: str = "") -> BadInput:
    got = f"{fault.what}: {_visible(fault.tokens, renderer)!r}"
    return BadInput(claim, got, fault.remedy, where=origin or None)


def _was_cut(example: Example, ids: Int[np.ndarray, " n"], limits: TokenLimits) -> bool:
    """Whether a response stops at a limit, where cutting has taken its end-of-turn token."""
    full = len(example.prompt) + len(ids) == limits.max_length
    return limits.overlong == "cut" and (full or len(ids) == limits.max_completion_length)


def _visible(ids: Int[np.ndarray, " n"], renderer: Renderer) -> str:
    return "".join(_pieces(ids, renderer))


def _pieces(ids: Int[np.ndarray, " n"], renderer: Renderer) -> list[str]:
    """Each token as text; what is no whole character by itself in the tokenizer's own letters."""
    tokenizer = renderer.tokenizer
    pieces = []
    for i in map(int, ids):
        text = str(tokenizer.decode([i]))
        if not text or "\ufffd" in text:
            text = str(tokenizer.convert_ids_to_tokens(i) or f"<{i}?>")
        pieces.append(text)
    return pieces


def marked_tokens(
    ids: Int[np.ndarray, " n"],
    mask: Bool[np.ndarray, " n"],
    renderer: Renderer,
    unscored: str = PROMPT,
) -> Text:
    """Tokens as `show` has them, one behind the other.

    Args:
        mask: which of them are scored.
        unscored: the style of the others.
    """
    special = set(renderer.tokenizer.all_special_ids) | renderer.end_ids
    line = Text()
    for i, scored, piece in zip(ids, mask, _pieces(ids, renderer), strict=True):
        style = SCORED if scored else unscored
        style = f"{style} {SPECIAL}" if int(i) in special else style
        # The bar of a token that ends with a newline stands before it, on the token's own line.
        text, end = piece.replace("\n", "⏎\n"), "\n" if piece.endswith("\n") else ""
        line.append(text.removesuffix("\n") if end else text, style=style)
        line.append(("│" if scored else "¦") + end, style="dim")
    return line
