"""Answers from a model directory, or from a server: to prompts at hand, or to a file of them."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.markup import escape

from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.data.bad_rows import OnBadRow
from alignax.data.chat import Renderer
from alignax.data.json_lines import check_json, written
from alignax.data.prompts import Prompts, load_prompts
from alignax.data.responses import without_responses
from alignax.data.tokenizers import end_ids, load_tokenizer
from alignax.generate.drawing import ask_server
from alignax.generate.engine import Engine
from alignax.generate.sampler import Sampler
from alignax.generate.server import Server
from alignax.models import peft, pretrained
from alignax.models.settings import template_options
from alignax.models.transformer import Decoder
from alignax.run import console

PORTION = (
    8  # prompts that a server is asked about before they are written, for each request at once
)

# (prompts' ids, a number for each) -> texts, and whether each ended
Draw = Callable[[Sequence[np.ndarray], Sequence[int]], tuple[list[list[str]], list[list[bool]]]]


def answer(
    directory: str | Path,
    prompts: list[Text],
    *,
    template: Any = "chat",
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    ask: Callable[[Text], Text] = lambda prompt: prompt,
    server: Server | None = None,
    seed: int = 0,
    **sampling: Any,
) -> list[list[str]]:
    """Answers prompts, prints and returns the answers.

    Args:
        directory: the model, an adapter in PEFT's format that names its base, or only its
            tokenizer where a server answers.
        prompts: a string is one user turn.
        template, chat_template, chat_template_kwargs: as in `config.Data`; what the template is
            told is what the model's config.json says where it is None.
        ask: how the model is asked, as `Method.ask`.
        server: answers in place of the model.
        sampling: fields of `Sampler`.
    """
    prompts = [ask(prompt) for prompt in prompts]
    sampler = _sampler(sampling, seed)
    directory = pretrained.locate(directory)
    renderer = _renderer(_home(directory), template, chat_template, chat_template_kwargs)
    rendered = renderer.prompt_ids([renderer.prompt(prompt) for prompt in prompts])
    ids = [np.array(row, np.int32) for row in rendered]
    texts, _ = _drawing(directory, renderer, sampler, seed, server)(ids, range(len(ids)))
    texts = [[text.strip() for text in one] for one in texts]
    for prompt, answers in zip(prompts, texts, strict=True):
        console.print(f"[bold]{escape(str(prompt))}[/]")
        for text in answers:
            console.print(escape(text))
    return texts


def sample(
    directory: str | Path,
    source: str,
    target: str | Path,
    *,
    split: str = "train",
    template: Any = "chat",
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    ask: Callable[[Text], Text] = lambda prompt: prompt,
    server: Server | None = None,
    seed: int = 0,
    on_bad_row: OnBadRow = "refuse",
    max_dropped_share: float = 0.1,
    quiet: bool = False,
    **sampling: Any,
) -> Path:
    """Answers every prompt of a source; writes JSON lines with `prompt`, `completions`, `ended`.

    `alignax score` gives the completions their scores, and methods for ranked lists learn from
    them. Other columns are kept, but for those that describe responses that were there before.
    What a server has answered is written as it comes: where it fails, the same call goes on behind
    that.

    Args:
        directory: the model, an adapter that names its base, or only its tokenizer where a server
            answers.
        source: a path, `tfds:NAME` or `hf:owner/name`.
        target: the file to write; it may not be there yet, its folder must.
        template, chat_template, chat_template_kwargs: as in `answer`.
        ask: how the model is asked, as `Method.ask`; what is written has the prompts as they were.
        server: answers in place of the model.
        on_bad_row, max_dropped_share: as in `config.Data`.
        sampling: fields of `Sampler`.

    Raises:
        BadInput: no prompts, a file that is there already or cannot be written, or a column that
            JSON cannot hold.
    """
    sampler = _sampler(sampling, seed)
    directory = pretrained.locate(directory)
    renderer = _renderer(_home(directory), template, chat_template, chat_template_kwargs)
    positions = pretrained.read_config(_home(directory)).max_positions
    if sampler.max_new_tokens >= positions:
        raise BadInput(
            f"fewer new tokens than the model's {positions:,} positions",
            f"{sampler.max_new_tokens:,}",
            "Lower --max-new-tokens, so that prompts have room.",
            where="--max-new-tokens",
        )
    prompts = load_prompts(
        source,
        renderer,
        ask=ask,
        max_length=positions - sampler.max_new_tokens,
        split=split,
        on_bad_row=on_bad_row,
        max_dropped_share=max_dropped_share,
        remedy="Lower --max-new-tokens, or take these prompts out of the file.",
    )
    if not quiet:
        console.print(escape(str(prompts)))
    rows = [_row(prompts, i) for i in range(len(prompts))]
    for row, origin in zip(rows, prompts.origins, strict=True):
        check_json(row, origin)
    key, flat = None, []
    if server is not None:
        made_of = (server.model, sampler, seed, rows, [ids.tolist() for ids in prompts.ids])
        key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    target = Path(target)
    with written(target, key) as lines:
        draw = _drawing(directory, renderer, sampler, seed, server)
        for part in _portions(server, lines.there, len(rows)):
            texts, ended = draw([prompts.ids[i] for i in part], part)
            for i, answers, whole in zip(part, texts, ended, strict=True):
                lines.write(rows[i] | {"completions": answers, "ended": whole})
                flat += whole
    if not quiet:
        console.print(
            f"[bold]written[/]: {escape(str(target))}, {len(rows):,} prompts with "
            f"{sampler.num_samples} completions; {sum(flat) / max(len(flat), 1):.1%} of "
            f"{len(flat):,} drawn now ended by themselves"
        )
    return target


def _sampler(settings: Mapping[str, Any], seed: int) -> Sampler:
    """The settings as one value, which draws something; the seed one that JAX takes as it is."""
    sampler = Sampler(**settings)
    sampler.check("command line")
    if not -(2**31) <= seed < 2**32:
        raise BadInput("a number of 32 bits", str(seed), "Change it.", where="command line.seed")
    return sampler


def _portions(server: Server | None, first: int, count: int) -> Iterator[range]:
    """Which prompts are drawn together: all by our own engine; by a server some, then the next."""
    size = count if server is None else PORTION * server.parallel
    return (range(i, min(i + size, count)) for i in range(first, count, size))


def _home(directory: Path) -> Path:
    """Where the tokenizer and the config of a model are, or of an adapter's base."""
    return peft.base_of(directory) if peft.is_adapter(directory) else directory


def _load(directory: Path) -> pretrained.Pretrained:
    """A model directory's weights, or an adapter's merged into its base."""
    return peft.load_merged(directory) if peft.is_adapter(directory) else pretrained.load(directory)


def _renderer(
    directory: Path,
    template: Any,
    chat_template: str | None,
    chat_template_kwargs: Mapping[str, Any] | None,
) -> Renderer:
    return Renderer(
        tokenizer=load_tokenizer(directory),
        template=template,
        chat_template=chat_template,
        chat_template_kwargs=template_options(directory)
        if chat_template_kwargs is None
        else chat_template_kwargs,
        extra_end_ids=end_ids(directory),
    )


def _row(prompts: Prompts, i: int) -> dict[str, Any]:
    prompt = prompts.texts[i]
    plain = prompt if isinstance(prompt, str) else [turn._asdict() for turn in prompt]
    return {"prompt": plain, **without_responses(prompts.rows[i])}


def _drawing(
    directory: Path, renderer: Renderer, sampler: Sampler, seed: int, server: Server | None
) -> Draw:
    """The model's answers, or the server's."""
    if server is None:
        return functools.partial(_ours, _load(directory), renderer, sampler, seed)
    vocab_size = pretrained.read_config(_home(directory)).vocab_size

    def ask(
        prompts: Sequence[np.ndarray], numbers: Sequence[int]
    ) -> tuple[list[list[str]], list[list[bool]]]:
        found = ask_server(
            server, renderer, sampler, prompts, numbers, seed=seed, vocab_size=vocab_size
        )
        return found.texts, found.ended

    return ask


def _ours(
    model: Any,
    renderer: Renderer,
    sampler: Sampler,
    seed: int,
    prompts: Sequence[np.ndarray],
    numbers: Sequence[int],
) -> tuple[list[list[str]], list[list[bool]]]:
    engine = Engine(
        model=Decoder(config=model.config),
        sampler=sampler,
        end_ids=tuple(sorted(renderer.end_ids)),
        slots=max(64, sampler.num_samples),
    )
    drawn = engine(model.params, jax.random.key(seed), prompts, numbers)
    decode = renderer.tokenizer.batch_decode
    texts = [
        decode([row[:n].tolist() for row, n in zip(rows, lengths, strict=True)],
               skip_special_tokens=True)
        for rows, lengths in zip(drawn.tokens, drawn.lengths, strict=True)
    ]  # fmt: skip
    return texts, drawn.ended.tolist()
