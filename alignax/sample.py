"""Answers from a model directory, or from a server: to prompts at hand, or to a file of them."""

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.control import strip_control_codes
from rich.markup import escape
from rich.segment import Segment, Segments

from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.data.bad_rows import OnBadRow
from alignax.data.chat import Renderer
from alignax.data.json_lines import check_json, written
from alignax.data.preflight import check_vocabulary
from alignax.data.prompts import Prompts, load_prompts, unanswered
from alignax.data.responses import without_responses
from alignax.data.tokenizers import end_ids, load_tokenizer
from alignax.generate.drawing import ask_server
from alignax.generate.engine import Engine
from alignax.generate.sampler import Sampler
from alignax.generate.server import Server
from alignax.models import files, peft, pretrained, settings
from alignax.models.settings import template_options
from alignax.models.transformer import Decoder
from alignax.run import console

# Prompts that a server is asked about before they are written, for each request at once.
PORTION = 8
# Answers, about, that our own engine draws before they are written: sixteen times what it decodes
# together, because towards the end of a portion some of that waits for the longest.
ANSWERS = 1024

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
            told is what the model's config.json says where it is None. An adapter's own template
            and what it was told (`files.OPTIONS`) come before its base's.
        ask: how the model is asked, as `Method.ask`.
        server: answers in place of the model.
        sampling: fields of `Sampler`.

    Raises:
        BadInput: tokens that the model has no embedding for.
    """
    prompts = [ask(prompt) for prompt in prompts]
    sampler = _sampler(sampling, seed)
    directory, home = _found(directory, server)
    renderer = _renderer(directory, home, template, chat_template, chat_template_kwargs)
    _, vocab_size = _sizes(home, renderer, server)
    rendered = renderer.prompt_ids([renderer.prompt(prompt) for prompt in prompts])
    ids = [np.array(row, np.int32) for row in rendered]
    check_vocabulary(map(unanswered, ids), renderer, vocab_size=vocab_size)
    longest = max(map(len, ids), default=1)
    draw = _drawing(directory, renderer, sampler, seed, server, vocab_size, longest)
    texts, _ = draw(ids, range(len(ids)))
    texts = [[text.strip() for text in one] for one in texts]
    for prompt, answers in zip(prompts, texts, strict=True):
        _print(str(prompt), "bold")
        for text in answers:
            _print(text or "(empty)", "" if text else "dim")
    return texts


def _print(text: str, style: str) -> None:
    """Prints a text as it stands: no markup or emoji code in it is read, no line broken.

    On a terminal without bells, and without ways back over what is written already.
    """
    text = strip_control_codes(text) if console.is_terminal else text
    segment = Segment(text, console.get_style(style or "none"))
    console.print(Segments([segment], new_lines=True), soft_wrap=True)


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
    Answers are written by portions: where a server fails, or the work is stopped, the same call
    goes on behind those that are there. What an answer is does not depend on portions.

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
        BadInput: no prompts, tokens that the model has no embedding for, a file that is there
            already or cannot be written, or a column that JSON cannot hold.
    """
    sampler = _sampler(sampling, seed)
    directory, home = _found(directory, server)
    renderer = _renderer(directory, home, template, chat_template, chat_template_kwargs)
    positions, vocab_size = _sizes(home, renderer, server)
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
    rows = [_row(prompts, i) for i in range(len(prompts))]
    if not quiet:
        kept = {name for row in rows for name in row}
        console.print(escape(prompts.described("kept", kept)), soft_wrap=True)
    asked = map(unanswered, prompts.ids, prompts.origins)
    check_vocabulary(asked, renderer, vocab_size=vocab_size)
    for row, origin in zip(rows, prompts.origins, strict=True):
        check_json(row, origin)
    who = _fingerprint(directory, renderer) if server is None else server.model
    made_of = (who, sampler, seed, rows, [ids.tolist() for ids in prompts.ids])
    key, flat = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16], []
    target = Path(target)
    with written(target, key) as lines:
        if not quiet:
            for line in lines.remarks(target):
                console.print(line, soft_wrap=True)
        draw = _drawing(directory, renderer, sampler, seed, server, vocab_size, prompts.longest)
        for part in _portions(server, lines.there, len(rows), sampler.num_samples):
            texts, ended = draw([prompts.ids[i] for i in part], part)
            for i, answers, whole in zip(part, texts, ended, strict=True):
                if i >= lines.there:
                    lines.write(rows[i] | {"completions": answers, "ended": whole})
                    flat += whole
    if not quiet:
        console.print(
            f"[bold]written[/]: {escape(str(target))}, {len(rows):,} prompts with "
            f"{sampler.num_samples} completions; {sum(flat) / max(len(flat), 1):.1%} of "
            f"{len(flat):,} drawn now ended by themselves",
            soft_wrap=True,
        )
    return target


def _sampler(settings: Mapping[str, Any], seed: int) -> Sampler:
    """The settings as one value, which draws something; the seed one that JAX takes as it is."""
    sampler = Sampler(**settings)
    sampler.check("command line")
    if not -(2**31) <= seed < 2**32:
        raise BadInput("a number of 32 bits", str(seed), "Change it.", where="command line.seed")
    return sampler


def _portions(server: Server | None, first: int, count: int, num_samples: int) -> Iterator[range]:
    """Which prompts are drawn together, of those from `first` on.

    Portions of our own engine lie where they always do, with what is there already in the first: so
    those of work that goes on round as an unbroken one's. They are as large as each other, and none
    leaves slots empty, which would take programs of its own.
    """
    if server is not None:
        size = PORTION * server.parallel
        return (range(i, min(i + size, count)) for i in range(first, count, size))
    number = -(-count // max(1, ANSWERS // num_samples))
    cuts = [count * i // number for i in range(number + 1)]
    return (range(i, j) for i, j in itertools.pairwise(cuts) if j > first)


def _found(name: str | Path, server: Server | None) -> tuple[Path, Path]:
    """A model's directory, and where tokenizer and config are: there, or with an adapter's base.

    Where a server answers no weights are fetched.
    """
    weights = server is None
    directory = pretrained.locate(name, weights=weights)
    if not peft.is_adapter(directory):
        return directory, directory
    return directory, peft.base_of(directory, weights=weights)


def _sizes(home: Path, renderer: Renderer, server: Server | None) -> tuple[int, int]:
    """Positions, and how many token ids there are.

    Of what a server serves as config.json has them, if it is there: the family may be any.
    """
    if server is None:
        config = pretrained.read_config(home)
        return config.max_positions, config.vocab_size
    positions, vocab_size = settings.sizes(home)
    return positions or sys.maxsize, vocab_size or len(renderer.tokenizer)


def _fingerprint(directory: Path, renderer: Renderer) -> tuple[Any, ...]:
    """Of all that decides what a model answers to token ids."""
    found = [pretrained.fingerprint(directory)] if not peft.is_adapter(directory) else [
        peft.fingerprint(directory), pretrained.fingerprint(peft.base_of(directory))
    ]  # fmt: skip
    return (*found, sorted(renderer.end_ids))


def _load(directory: Path) -> pretrained.Pretrained:
    """A model directory's weights, or an adapter's merged into its base."""
    return peft.load_merged(directory) if peft.is_adapter(directory) else pretrained.load(directory)


def _renderer(
    directory: Path,
    home: Path,
    template: Any,
    chat_template: str | None,
    chat_template_kwargs: Mapping[str, Any] | None,
) -> Renderer:
    """Of a model; or of an adapter: its own template, beside what its base says of tokens."""
    base = None if directory == home else home
    if chat_template is None and base is not None:
        chat_template = _own_template(directory)
    return Renderer(
        tokenizer=load_tokenizer(home),
        template=template,
        chat_template=chat_template,
        chat_template_kwargs=template_options(directory, base)
        if chat_template_kwargs is None
        else chat_template_kwargs,
        extra_end_ids=end_ids(home),
    )


def _own_template(adapter: Path) -> str | None:
    """The template that stands beside an adapter; None where its base's holds."""
    if (adapter / files.TEMPLATE).is_file():
        return str(adapter / files.TEMPLATE)
    found = files.read_json(adapter / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {x["name"]: x["template"] for x in found}.get("default")
    return found


def _row(prompts: Prompts, i: int) -> dict[str, Any]:
    prompt = prompts.texts[i]
    plain = prompt if isinstance(prompt, str) else [turn.as_dict() for turn in prompt]
    return {"prompt": plain, **without_responses(prompts.rows[i])}


def _drawing(
    directory: Path,
    renderer: Renderer,
    sampler: Sampler,
    seed: int,
    server: Server | None,
    vocab_size: int,
    longest: int,
) -> Draw:
    """The model's answers, or the server's.

    Args:
        longest: tokens of the longest of all prompts.
    """
    if server is None:
        return _ours(_load(directory), renderer, sampler, seed, longest)

    def ask(
        prompts: Sequence[np.ndarray], numbers: Sequence[int]
    ) -> tuple[list[list[str]], list[list[bool]]]:
        found = ask_server(
            server, renderer, sampler, prompts, numbers, seed=seed, vocab_size=vocab_size
        )
        return found.texts, found.ended

    return ask


def _ours(
    model: pretrained.Pretrained, renderer: Renderer, sampler: Sampler, seed: int, longest: int
) -> Draw:
    engine = Engine(
        model=Decoder(config=model.config),
        sampler=sampler,
        end_ids=tuple(sorted(renderer.end_ids)),
        slots=max(64, sampler.num_samples),
        longest=longest,
    )

    def ask(
        prompts: Sequence[np.ndarray], numbers: Sequence[int]
    ) -> tuple[list[list[str]], list[list[bool]]]:
        drawn = engine(model.params, jax.random.key(seed), prompts, numbers)
        texts = [
            renderer.texts([row[:n].tolist() for row, n in zip(rows, lengths, strict=True)])
            for rows, lengths in zip(drawn.tokens, drawn.lengths, strict=True)
        ]
        return texts, drawn.ended.tolist()

    return ask
