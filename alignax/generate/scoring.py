"""A sequence classifier at work: texts in, the outputs of its score head out.

Shapes come from a ladder, so that call after call with other texts meets programs that are there
already. A prompt is computed once for those of its responses that share its row.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int

from alignax.core import processes
from alignax.core.axes import ROW_AXES, whole
from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.core.types import Layout, Params
from alignax.data.chat import Renderer
from alignax.data.ladder import rung
from alignax.data.tokenizers import end_ids, load_tokenizer
from alignax.models import files, pretrained
from alignax.models.config import DecoderConfig
from alignax.models.families import RANGES
from alignax.models.settings import template_options
from alignax.models.transformer import Decoder

ROW = 1024  # tokens, about, that responses to one prompt share a row up to
SHORTEST = 64  # tokens of a row

log = logging.getLogger("alignax")


class Tokens(NamedTuple):
    """A prompt and its responses as ids of the classifier's tokenizer."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]


class _Row(NamedTuple):
    """Some responses to one prompt: which group, which of its responses, how many tokens."""

    group: int
    responses: tuple[int, ...]
    length: int


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Scorer:
    """A classifier with its own tokenizer and template. Make it with `load_scorer`.

    Fields:
        directory: of the weights, which are read when first used.
        decoder: the shape.
        renderer: from text to the classifier's own ids.
        names: of the outputs.
        ranges: of the numbers that each was taught; none where the model does not say.
    """

    directory: Path
    decoder: Decoder
    renderer: Renderer
    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...] = ()
    _placed: dict[Any, Params] = dataclasses.field(default_factory=dict, repr=False)

    def encode(self, prompts: Sequence[Text], responses: Sequence[Sequence[str]]) -> list[Tokens]:
        """Token ids of prompts and of the responses to each, every response ended.

        Raises:
            BadRow: a text holds a special token, or the chat template refuses it.
        """
        renderer = self.renderer
        pairs = zip(prompts, responses, strict=True)
        rendered = [renderer.render(prompt, texts) for prompt, texts in pairs]
        prompt_ids = renderer.prompt_ids([one.prompt for one in rendered])
        texts = ["".join(s.text for s in r) for one in rendered for r in one.responses]
        ids = iter(renderer.continuation_ids(texts))
        made = [
            Tokens(prompt, [self._ended(next(ids)) for _ in one.responses])
            for prompt, one in zip(prompt_ids, rendered, strict=True)
        ]
        self._check_ids(made)
        return made

    def ratings(self, outputs: Float32[np.ndarray, "*n c"]) -> Float32[np.ndarray, "*n c"]:
        """Outputs as whole numbers of the scale that the model was taught.

        A regression goes beyond it for some texts, and what was rounded there would be a level
        that no one has ever given.
        """
        if not self.ranges:
            _say_unknown_scale(self.directory)
            return np.round(outputs)
        low, high = np.array(self.ranges, np.float32).T
        return np.round(np.clip(outputs, low, high))

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids and ids[-1] in self.renderer.end_ids else [*ids, self.renderer.end_id]

    def _check_ids(self, made: Sequence[Tokens]) -> None:
        size = self.decoder.config.vocab_size
        highest = max(
            (max(x, default=0) for t in made for x in (t.prompt, *t.responses)), default=0
        )
        if highest >= size:
            raise BadInput(
                f"a tokenizer whose ids are below the model's vocabulary of {size}",
                f"the id {highest}",
                "Take weights and tokenizer from one source.",
                where=str(self.directory),
            )

    def __call__(
        self, groups: Sequence[Tokens], *, batch_size: int
    ) -> Iterator[tuple[int, int, Float32[np.ndarray, " c"]]]:
        """The outputs at the last token of every response.

        Runs on the mesh in use (`jax.set_mesh`), rows split over its data-parallel axes, or else
        on the default device. Numbers do not depend on what else is asked for, but for rounding.

        Args:
            groups: prompts with their responses, none of them empty.
            batch_size: rows at a time; rounded up to what the mesh divides.

        Yields:
            The group, which of its responses, and its outputs; the longest rows first.
        """
        mesh = jax.sharding.get_mesh()
        axes = tuple(name for name in ROW_AXES if name in mesh.axis_names)
        shards = int(np.prod([mesh.shape[name] for name in axes], dtype=int))
        params = self._params(mesh)
        rows = sorted(_rows(groups), key=lambda row: -row.length)
        size = -(-batch_size // shards) * shards
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            count = min(size, -(-_power(len(some)) // shards) * shards)
            layout, ends = _lay(groups, some, count)
            if not mesh.empty:
                split = NamedSharding(mesh, PartitionSpec(axes))
                layout, ends = processes.put((layout, ends), split)
            found = processes.fetch(_run(self.decoder, params, layout, ends))
            for row, numbers in zip(some, found, strict=False):
                yield from ((row.group, j, x) for j, x in zip(row.responses, numbers, strict=False))

    def _params(self, mesh: jax.sharding.Mesh) -> Params:
        """The weights on every device of the mesh, read once."""
        key = None if mesh.empty else mesh
        if key not in self._placed:
            self._placed.clear()  # one copy at a time
            shardings = None
            if key is not None:
                everywhere = NamedSharding(mesh, PartitionSpec())
                shardings = jax.tree.map(lambda _: everywhere, self.decoder.abstract())
            self._placed[key] = pretrained.load(self.directory, shardings=shardings).params
        return self._placed[key]


@functools.cache
def _say_unknown_scale(directory: Path) -> None:
    log.warning("%s: the config.json says no scale of its ratings: whole numbers are rounded, "
                "however high or low", directory)  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _run(
    decoder: Decoder, params: Params, layout: Layout, ends: Int[Array, "n e"]
) -> Float[Array, "n e c"]:
    segments = ends.size + ends.shape[0]  # a prompt in each row, and the responses to it
    hidden = decoder.packed(params, layout, segments=segments)
    return whole(decoder.scores(params, jnp.take_along_axis(hidden, ends[..., None], axis=1)))


def classifier(directory: str | Path) -> DecoderConfig:
    """The shape of a sequence classifier, its weights unread.

    Raises:
        BadInput: it is none, or of a family that alignax does not compute.
    """
    config = pretrained.read_config(directory)
    if not config.num_scores:
        raise BadInput(
            "a reward model (a sequence classifier with a score head)",
            "a language model",
            "Train one with `alignax train --method reward_model`.",
            where=str(directory),
        )
    return config


def output_names(directory: str | Path) -> tuple[str, ...]:
    """Of a sequence classifier's outputs, in order; LABEL_0 and so on where it does not say."""
    count = classifier(directory).num_scores
    labels = files.read_json(pretrained.locate(directory) / "config.json").get("id2label") or {}
    return tuple(str(labels.get(str(i), f"LABEL_{i}")) for i in range(count))


def output_ranges(directory: str | Path) -> tuple[tuple[float, float], ...]:
    """Of what a sequence classifier's outputs were taught, in order; none where it does not say.

    Raises:
        BadInput: what it says is no pair of numbers an output.
    """
    path = pretrained.locate(directory) / "config.json"
    said = files.read_json(path).get(RANGES)
    if said is None:
        return ()
    try:
        named = {str(name): (float(low), float(high)) for name, (low, high) in said.items()}
        good = all(low <= high for low, high in named.values())
    except (AttributeError, TypeError, ValueError):
        named, good = {}, False
    if not good:
        raise BadInput(
            f"{RANGES} with the lowest and the highest number of each output",
            f"{said!r:.200}",
            "Mend config.json, or take the key out.",
            where=str(path),
        )
    return tuple(named.get(name, (-np.inf, np.inf)) for name in output_names(directory))


def load_scorer(
    directory: str | Path,
    *,
    template: Literal["chat", "none"] = "chat",
    chat_template: str | None = None,
) -> Scorer:
    """A classifier with its tokenizer; found again, weights and all, while its files stay the same.

    The template is told what config.json says that it was told in training.

    Args:
        template: "chat" renders by its tokenizer's own chat template; "none" takes strings as
            they stand.
        chat_template: replaces the tokenizer's, as in `config.Data`.

    Raises:
        BadInput: no sequence classifier of a family that alignax computes, or no tokenizer or
            chat template beside it.
    """
    config = classifier(directory)
    located = pretrained.locate(directory)
    written = [located / "config.json", *files.weight_files(located)]
    stamp = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in written)
    return _load(located.resolve(), template, chat_template, config, stamp)


@functools.lru_cache(maxsize=4)
def _load(
    directory: Path,
    template: Literal["chat", "none"],
    chat_template: str | None,
    config: DecoderConfig,
    stamp: Any,
) -> Scorer:
    del stamp
    tokenizer = load_tokenizer(directory)
    if template == "chat" and not (chat_template or tokenizer.chat_template):
        raise BadInput(
            "a reward model whose tokenizer has a chat template",
            "none",
            "Name the template that the model was trained with, as chat_template or in "
            'tokenizer_config.json; set template="none" if it was trained on plain strings.',
            where=str(directory),
        )
    renderer = Renderer(
        tokenizer=tokenizer,
        template=template,
        chat_template=chat_template,
        chat_template_kwargs=template_options(directory),
        extra_end_ids=end_ids(directory),
    )
    return Scorer(
        directory=directory,
        decoder=Decoder(config=config),
        renderer=renderer,
        names=output_names(directory),
        ranges=output_ranges(directory),
    )


def _rows(groups: Iterable[Tokens]) -> Iterator[_Row]:
    """Each prompt with as many of its responses as fit `ROW` tokens, in one row or several."""
    for i, (prompt, responses) in enumerate(groups):
        taken: list[int] = []
        length = len(prompt)
        for j, response in enumerate(responses):
            if taken and length + len(response) > ROW:
                yield _Row(i, tuple(taken), length)
                taken, length = [], len(prompt)
            taken.append(j)
            length += len(response)
        if taken:
            yield _Row(i, tuple(taken), length)


def _lay(
    groups: Sequence[Tokens], rows: Sequence[_Row], count: int
) -> tuple[Layout, Int[np.ndarray, "n e"]]:
    """`count` rows, the last of them perhaps of padding, and where each response ends."""
    length = rung(max(SHORTEST, *(row.length for row in rows)))
    most = _power(max(len(row.responses) for row in rows))
    tokens, response, position = (np.zeros((count, length), np.int32) for _ in range(3))
    group = np.full((count, length), -1, np.int32)
    ends = np.zeros((count, most), np.int32)
    for i, row in enumerate(rows):
        prompt, responses = groups[row.group]
        p = at = len(prompt)
        group[i, : row.length] = 0
        tokens[i, :p], position[i, :p] = prompt, np.arange(p)
        for j, k in enumerate(row.responses):
            r = len(responses[k])
            here = slice(at, at + r)
            tokens[i, here], response[i, here] = responses[k], j + 1
            position[i, here] = p + np.arange(r)
            at += r
            ends[i, j] = at - 1
    # No token is scored: a classifier has no vocabulary.
    none = np.zeros((count, 1), np.int32)
    lie: dict[str, Any] = {"tokens": tokens, "group": group, "response": response,
                           "position": position, "source": none, "target": none,
                           "slot": none - 1}  # fmt: skip
    return Layout(**lie), ends


def _power(x: int) -> int:
    """The smallest power of two that is at least x."""
    return 1 << (x - 1).bit_length()
