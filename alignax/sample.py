"""Answers from a model directory, or from a server: to prompts at hand, or to a file of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.markup import escape

from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.data.chat import Renderer
from alignax.data.prompts import Prompts, load_prompts
from alignax.data.tokenizers import end_ids, load_tokenizer
from alignax.generate.engine import Engine
from alignax.generate.rollout import ask_server
from alignax.generate.sampler import Sampler
from alignax.generate.server import Server
from alignax.models import peft, pretrained
from alignax.models.transformer import Decoder
from alignax.run import console


def answer(
    directory: str | Path,
    prompts: list[Text],
    *,
    seed: int = 0,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    ask: Callable[[Text], Text] = lambda prompt: prompt,
    **sampling: Any,
) -> list[list[str]]:
    """Answers prompts with a model directory's weights, prints and returns the answers.

    Args:
        directory: of a model, or of an adapter in PEFT's format that names its base.
        prompts: a string is one user turn.
        chat_template, chat_template_kwargs: as in `config.Data`.
        ask: how the model is asked, as `Method.ask`.
        sampling: fields of `Sampler`.
    """
    prompts = [ask(prompt) for prompt in prompts]
    sampler = Sampler(**sampling)
    sampler.check("command line")
    model = _load(directory)
    renderer = _renderer(model.directory, "chat", chat_template, chat_template_kwargs)
    rendered = renderer.prompt_ids([renderer.prompt(prompt) for prompt in prompts])
    ids = [np.array(row, np.int32) for row in rendered]
    texts, _ = _ours(model, renderer, ids, sampler, seed)
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
    quiet: bool = False,
    **sampling: Any,
) -> Path:
    """Answers every prompt of a source; writes JSON lines with `prompt`, `completions`, `ended`.

    `alignax score` gives the completions their scores, and methods for ranked lists learn from
    them. Other columns are kept.

    Args:
        directory: the model, an adapter that names its base, or only its tokenizer where a server
            answers.
        source: a path, `tfds:NAME` or `hf:owner/name`.
        target: the file to write; it may not be there yet.
        template, chat_template, chat_template_kwargs: as in `config.Data`.
        ask: how the model is asked, as `Method.ask`; what is written has the prompts as they were.
        server: answers in place of the model.
        sampling: fields of `Sampler`.

    Raises:
        BadInput: no prompts, or a file that is there already.
    """
    target = Path(target)
    if target.exists():
        raise BadInput(
            "a file that is not there yet", "one that is", "Name another.", where=str(target)
        )
    sampler = Sampler(**sampling)
    sampler.check("command line")
    directory = pretrained.locate(directory)
    home = peft.base_of(directory) if peft.is_adapter(directory) else directory
    renderer = _renderer(home, template, chat_template, chat_template_kwargs)
    config = pretrained.read_config(home)
    prompts = load_prompts(
        source,
        renderer,
        ask=ask,
        max_length=config.max_positions - sampler.max_new_tokens,
        split=split,
    )
    if not quiet:
        console.print(str(prompts))
    if server is None:
        model = _load(directory)
        texts, ended = _ours(model, renderer, prompts.ids, sampler, seed)
    else:
        found = ask_server(
            server, renderer, sampler, prompts.ids, range(len(prompts)),
            seed=seed, vocab_size=config.vocab_size,
        )  # fmt: skip
        texts, ended = found.texts, found.ended
    draft = target.with_name(f".{target.name}.tmp")
    with draft.open("w") as file:
        for i, (answers, whole) in enumerate(zip(texts, ended, strict=True)):
            row = _row(prompts, i) | {"completions": answers, "ended": whole}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    draft.replace(target)
    if not quiet:
        flat = [x for whole in ended for x in whole]
        console.print(
            f"[bold]written[/]: {target}, {len(texts):,} prompts with {sampler.num_samples} "
            f"completions; {sum(flat) / len(flat):.1%} ended by themselves"
        )
    return target


def _load(directory: str | Path) -> pretrained.Pretrained:
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
        chat_template_kwargs=chat_template_kwargs or {},
        extra_end_ids=end_ids(directory),
    )


def _row(prompts: Prompts, i: int) -> dict[str, Any]:
    prompt = prompts.texts[i]
    plain = prompt if isinstance(prompt, str) else [turn._asdict() for turn in prompt]
    columns = {name: values[i] for name, values in prompts.columns.items()}
    return {"prompt": plain, **{n: x for n, x in columns.items() if x is not None}}


def _ours(
    model: Any, renderer: Renderer, prompts: Sequence[np.ndarray], sampler: Sampler, seed: int
) -> tuple[list[list[str]], list[list[bool]]]:
    engine = Engine(
        model=Decoder(config=model.config),
        sampler=sampler,
        end_ids=tuple(sorted(renderer.end_ids)),
        slots=max(64, sampler.num_samples),
    )
    drawn = engine(model.params, jax.random.key(seed), prompts, range(len(prompts)))
    decode = renderer.tokenizer.batch_decode
    texts = [
        decode([row[:n].tolist() for row, n in zip(rows, lengths, strict=True)],
               skip_special_tokens=True)
        for rows, lengths in zip(drawn.tokens, drawn.lengths, strict=True)
    ]  # fmt: skip
    return texts, drawn.ended.tolist()
