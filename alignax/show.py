"""A model, shown: its parameters with their axes, its tokenizer, and its chat template at work.

Only headers are read: a model of any size is shown at once. One from the hub is fetched whole
first, weights included, as it would be to train it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from alignax.core.errors import BadInput
from alignax.core.records import Message
from alignax.data import templates
from alignax.data.bad_rows import BadRow
from alignax.data.chat import Renderer
from alignax.data.preflight import marked_tokens
from alignax.data.tokenizers import end_ids, load_tokenizer, opening
from alignax.models import pretrained
from alignax.models.transformer import Decoder

_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
_WORDS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
EXAMPLE = (
    Message("user", "Is 7 a prime number?"),
    Message("assistant", "Yes, it is."),
    Message("user", "And 8?"),
)
ANSWER = "No: 8 is 2 x 4."
SYSTEM = Message("system", "Be brief.")


def model(
    name: str | Path,
    console: Console,
    *,
    chat_template: str | None = None,
) -> None:
    """Prints what a model directory or a hub id holds.

    Args:
        chat_template: shown in place of the model's own, as in `config.Data`.

    Raises:
        BadInput: it is no model, or of a family that alignax does not compute.
    """
    header = pretrained.read_header(name)
    console.print(facts(header, str(name)))
    console.print(parameters(header))
    try:
        tokenizer = load_tokenizer(header.directory)
    except BadInput as missing:
        console.print(Text("tokenizer  none: ").append(f"{missing.got}. {missing.remedy}"))
        return
    ends = end_ids(header.directory)
    console.print(tokens(tokenizer, header.config.vocab_size, ends))
    console.print(template(tokenizer, ends, chat_template))


def facts(header: pretrained.Header, name: str) -> Table:
    """Family, size, head and length, a line each."""
    config = header.config
    numbers, size = _totals(header)
    dtypes = sorted({_WORDS.get(dtype, dtype) for dtype in header.dtypes.values()})
    count = len(header.files)
    head = "tied: the output matrix is the embedding" if config.tied else "its own output matrix"
    if config.num_scores:
        head = f"a score head, outputs: {config.num_scores}; a reward model"
    groups = "" if config.kv_heads == config.heads else f" ({config.kv_heads} of keys and values)"
    rows = {
        "model": name,
        "family": f"{header.family} ({header.name})",
        "parameters": f"{numbers:,}, {_size(size)} in {', '.join(dtypes)}",
        "files": f"{count} of {_size(sum(header.files.values()))}"
        if count > 1
        else f"{next(iter(header.files))}, {_size(sum(header.files.values()))}",
        "layers": f"{config.layers} of width {config.width:,}, {config.heads} heads of "
        f"{config.head_dim}{groups}, MLP of {config.mlp_width:,}",
        "head": head,
        "context": f"{config.max_positions:,} positions",
    }
    return _facts(rows)


def parameters(header: pretrained.Header) -> Table:
    """A row a parameter: its path, its logical axes with their sizes, its dtype and its bytes.

    Those of the layers are stacked: their first axis is named once, and their bytes are of all.
    """
    decoder = Decoder(config=header.config)
    shapes = dict(_leaves(decoder.abstract()))
    table = Table("parameter", "axes", "dtype", "bytes", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    table.columns[3].justify = "right"
    table.columns[2].no_wrap = table.columns[3].no_wrap = True
    rows = sorted(_leaves(decoder.axes()), key=lambda leaf: leaf[1][0] == "layers")
    stacked = False
    for path, axes in rows:
        shape, dtype = shapes[path].shape, header.dtypes[path]
        sizes = [f"{axis}={n}" for axis, n in zip(axes, shape, strict=True)]
        size = math.prod(shape) * _BYTES.get(dtype, 0)
        name = "/".join(path)
        if axes[0] == "layers" and path[0] == "layers":
            if not stacked:
                table.add_row("layers/", f"{sizes[0]} first in all of these")
            stacked, name, sizes = True, f"  {'/'.join(path[1:])}", sizes[1:]
        table.add_row(name, " ".join(sizes), dtype, _size(size))
    numbers, size = _totals(header)
    table.add_section()
    table.add_row("all", f"{numbers:,} numbers", "", _size(size))
    return table


def tokens(tokenizer: PreTrainedTokenizerBase, rows: int, end_ids: tuple[int, ...]) -> Table:
    """Special tokens, and who writes them.

    Args:
        rows: of the embedding.
        end_ids: ids that end a response, as `tokenizers.end_ids` finds them.
    """
    spare = (
        f", {rows - len(tokenizer):,} rows of the embedding spare" if rows > len(tokenizer) else ""
    )
    if rows < len(tokenizer):
        spare = f": more than the {rows:,} rows of the embedding"
    ends = tokenizer.convert_ids_to_tokens(list(end_ids))
    first = tokenizer.convert_ids_to_tokens(opening(tokenizer))
    return _facts(
        {
            "tokenizer": f"{len(tokenizer):,} tokens{spare}",
            "BOS": _token(tokenizer, "bos"),
            "EOS": _token(tokenizer, "eos"),
            "padding": _token(tokenizer, "pad"),
            "generation": f"ends with {' '.join(map(str, ends))}" if ends else "names no end",
            "before a text": f"the tokenizer puts {' '.join(map(str, first))}"
            if first
            else "the tokenizer puts nothing",
        }
    )


def template(
    tokenizer: PreTrainedTokenizerBase, end_ids: tuple[int, ...], given: str | None
) -> Group:
    """The chat template on a short conversation, token by token.

    Args:
        end_ids: as in `tokens`.
        given: a template in place of the tokenizer's own, as in `config.Data`.
    """
    own = "the tokenizer's own" if given is None else given if "{" not in given else "as given"
    if given is None and not tokenizer.chat_template:
        name = templates.suggestion(tokenizer)
        return Group(
            _facts({"chat template": "none; shown is what data.chat_template could be"}),
            _named(name),
            template(tokenizer, end_ids, name),
        )
    renderer = Renderer(tokenizer=tokenizer, chat_template=given, extra_end_ids=end_ids)
    rendered = renderer.render(EXAMPLE, (ANSWER,))
    whole, unasked = renderer.prompt_ids([rendered.prompt, renderer.before_header(EXAMPLE)])
    # A template may also write something in the place of the header, where none is asked for.
    start = whole[: _same(whole, unasked)]
    pieces = [segment.text for segment in rendered.responses[0]]
    (answer,) = renderer.continuation_ids(["".join(pieces)], [rendered.prompt])
    if answer[-1] not in renderer.end_ids:
        answer.append(renderer.end_id)
    ends = " ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(renderer.end_ids))))
    facts = {
        "chat template": own,
        "writes BOS": _bos(renderer, whole),
        "system": _system(renderer),
        "end of turn": ends,
    }
    if renderer.dated:
        facts["date"] = "the template writes today's: prompts differ from day to day"
    blocks: list[Any] = [Text(), _facts(facts)]
    for title, ids, scored in (
        ("conversation", start, False),
        ("generation prompt", whole[len(start) :], False),
        ("response, trained", answer, True),
    ):
        count = f"{len(ids)} token{'' if len(ids) == 1 else 's'}" if ids else "none"
        blocks += [Text(), Text(f"{title}, {count}", style="underline")]
        if ids:
            shown = marked_tokens(np.array(ids, np.int32), np.full(len(ids), scored), renderer)
            shown.rstrip()
            blocks.append(shown)
    return Group(*blocks)


def _named(name: str) -> Text:
    return Text(f"{name}: {templates.NAMED[name].shape}", style="dim")


def _bos(renderer: Renderer, ids: list[int]) -> str:
    bos: Any = renderer.tokenizer.bos_token_id
    count = 0 if bos is None else ids.count(bos)
    if count == 0:
        adds = bos is not None and bos in opening(renderer.tokenizer)
        return "never, though the tokenizer puts one before a text" if adds else "never"
    if count > 1:
        return f"{count} times: it opens or ends turns"
    return "once, at the start" if ids[0] == bos else "once, and not at the start"


def _system(renderer: Renderer) -> str:
    """What becomes of a system message, and what stands there without one."""
    first, answer, second = EXAMPLE
    try:
        taken = SYSTEM.content in renderer.prompt((SYSTEM, first))
        found = "taken" if taken else "passed over"
    except BadRow as error:
        found = f"refused ({error.got.partition(': ')[2]})"
    # Before the first question stands what stands before the second, and what is left is said.
    text = renderer.prompt(EXAMPLE)
    opened = text.partition(first.content)[0]
    between = text.partition(answer.content)[2].partition(second.content)[0]
    if renderer.bos_at_start:
        opened = opened.removeprefix(str(renderer.tokenizer.bos_token))
    own = opened[: len(opened) - _same(opened[::-1], between[::-1])]
    return f"{found}; without one the template writes {own!r}" if own.strip() else found


def _same(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How long the beginning is that two sequences share."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _token(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    token = getattr(tokenizer, f"{name}_token")
    return "none" if token is None else f"{token} ({getattr(tokenizer, f'{name}_token_id')})"


def _totals(header: pretrained.Header) -> tuple[int, int]:
    """Numbers and bytes of all parameters as they are stored."""
    shapes = dict(_leaves(Decoder(config=header.config).abstract()))
    sizes = {path: math.prod(x.shape) for path, x in shapes.items()}
    return sum(sizes.values()), sum(
        n * _BYTES.get(header.dtypes[path], 0) for path, n in sizes.items()
    )


def _leaves(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Path and value of each leaf, in the order of the tree; tuples are leaves."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return [(tuple(str(part.key) for part in path), leaf) for path, leaf in found]


def _facts(rows: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _size(count: int) -> str:
    """Bytes in the decimal units of disks."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} B"
