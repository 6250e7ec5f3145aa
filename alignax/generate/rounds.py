"""The feed of sampled responses: draw, score, select, learn for some updates, draw again.

Where what earlier rounds have kept is met again (`replay`), it and what is fresh are one pool. A
round learns from `refresh` x batch size groups of it at most, in random order: a pool that is
larger is met in part, and so is what is fresh in it.

Everything is decided by (seed, round, parameters at its beginning). A run that is stopped within a
round cannot draw it again, because the policy has moved on; so what a round learns from is written
beside the checkpoint, and read when the run goes on.
"""

import functools
import logging
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.records import Labelled
from alignax.core.rollouts import DIFFERENCE
from alignax.core.types import Params
from alignax.data.chat import Renderer
from alignax.data.convert import Pairing
from alignax.data.ladder import widened
from alignax.data.pipeline import DrawFailed, Drawn, InMemory, build_step
from alignax.data.plan import generator, make_plan
from alignax.data.prompts import Prompts
from alignax.data.tokenise import Example
from alignax.generate.drawing import Answer, Drawing, apart, draw, merged
from alignax.generate.kept import (
    Kept,
    as_batch,
    groups_of_a_prompt,
    recorded,
    selected,
)
from alignax.generate.rollout import Rollout
from alignax.generate.round_files import store, stored

log = logging.getLogger("alignax")

# (parameters, groups) -> for each group, numbers of its tokens by the name of a batch's field
Look = Callable[[Params, Sequence[Example]], Mapping[str, list[np.ndarray]]]
_FILE = re.compile(r"round-\d+\.npz")
PROMPTS, ORDER = 2, 3  # what random numbers are for; the plan has 0 and 1
SELECTION = 6  # what a key is for; `feeds` draws responses by 1, adapters begin by 5


class Rounds:
    """Batches of sampled responses, in rounds of `refresh` updates; fewer where there are not as
    many groups, so that no update is empty.

    Args:
        answer: draws the responses to prompts.
        look: numbers of drawn tokens that the method needs, such as the reference's
            log-probabilities, by the functions that the update uses.
        reference: the reference's parameters, where `source` says that they draw.
        decode: token ids to texts, special tokens left out.
        attributes: of responses, for methods that learn from those.
        folder: where rounds are kept.
        anew: whether log-probabilities of what our own sampler drew are computed again by `look`.
    """

    def __init__(
        self,
        *,
        method: Method,
        settings: Rollout,
        prompts: Prompts,
        renderer: Renderer,
        answer: Answer,
        look: Look,
        reference: Callable[[], Params],
        decode: Callable[[Sequence[Sequence[int]]], list[str]],
        attributes: Any = None,
        pairing: Pairing = "best-worst",
        batch_size: int,
        accumulation: int = 1,
        shards: int = 1,
        seed: int,
        folder: Path,
        anew: bool = False,
    ):
        self._anew = anew
        self._method, self._settings, self._prompts = method, settings, prompts
        self._renderer, self._answer, self._look = renderer, answer, look
        self._reference, self._decode, self._attributes = reference, decode, attributes
        self._pairing: Pairing = pairing
        self._seed, self._folder = seed, folder
        self._size, self._accumulation, self._shards = batch_size, accumulation, shards
        self.sampling = settings.sampling(method)
        # Groups to a round: each is met `epochs` times in `refresh` updates.
        self.groups = -(-batch_size * self.sampling.refresh // self.sampling.epochs)
        self._round, self._step, self._cursor = 0, 0, 0
        self._kept: Kept | None = None
        self._pool: Kept | None = None  # what is met again, the oldest first

    def draw(self, params: Params) -> tuple[Any, Drawn]:
        """The arrays of the next update, after a drawing where one is due.

        Args:
            params: of the policy as it is now.
        """
        drawn = Drawn()
        if self._kept is None or self._step == len(self._plan):
            drawn = self._begin(params)
        arrays = build_step(self._groups, self._plan, self._step, self._numbers)
        self._step += 1
        return arrays, drawn

    # --- A round

    def _begin(self, params: Params) -> Drawn:
        before = self._round, self._cursor
        self._round += self._kept is not None
        try:
            fresh, drawings = self._fresh(params)
        except Exception:  # the position stays that of the round before, and can be saved
            self._round, self._cursor = before
            raise
        if self._kept is not None and self.sampling.replay != "none":
            self._pool = self._kept if self._pool is None else self._pool + self._kept
        self._kept, self._step = fresh, 0
        self._lay_out()
        metrics = merged([x.metrics for x in drawings]) | {
            "prompts_drawn": float(sum(len(x.numbers) for x in drawings)),
            "groups_kept": float(len(fresh.examples)),
            "groups_dropped": float(fresh.dropped.total),
            "padding": self._plan.padding,
        }
        samples = [row for x in drawings for row in x.samples][: self._settings.kept]
        return Drawn(metrics, samples)

    def _fresh(self, params: Params) -> tuple[Kept, list[Drawing]]:
        """Draws until there are groups enough, or `max_draws` times."""
        kept, drawings = None, []
        per_prompt = groups_of_a_prompt(self._method, self.sampling.num_samples, self._pairing)
        count = -(-self.groups // per_prompt)
        if self._method.needs().record is Labelled:
            count = max(2, count)  # the unrelated response is one to another prompt
        for attempt in range(self._settings.max_draws):
            drawing = self._drawing(params, count)
            found = self._choose(params, drawing, attempt)
            drawings.append(drawing)
            kept = found if kept is None else kept + found
            if len(kept.examples) >= self.groups or (kept.examples and not self.sampling.fill):
                break
        assert kept is not None
        if not kept.examples:
            raise DrawFailed(
                "responses that teach something",
                f"none in {len(drawings)} drawings of {count} prompts: {kept.dropped}",
                "Run again with a higher rollout.max_draws to go on. Or give prompts that are "
                "sometimes answered well, more samples, or a finer reward: to another run, which "
                "may begin from what `alignax export` writes of this one.",
                where=f"round {self._round}",
            )
        if self.sampling.fill and len(kept.examples) < self.groups:
            log.warning(
                "round %d: %d of %d groups after rollout.max_draws (%d) drawings of %d prompts, so "
                "its updates are smaller or fewer; dropped: %s",
                *(self._round, len(kept.examples), self.groups, len(drawings), count, kept.dropped),
            )
        for _ in range(self.groups, len(kept.examples)):
            kept.dropped.add("more than the round has room for", f"round {self._round}")
        return kept.take(range(min(len(kept.examples), self.groups))), drawings

    def _drawing(self, params: Params, count: int) -> Drawing:
        """Answers to the next `count` prompts of the stream, and their rewards."""
        place = np.arange(self._cursor, self._cursor + count)
        self._cursor += count
        size = len(self._prompts)
        epochs = {epoch: self._epoch(epoch) for epoch in np.unique(place // size).tolist()}
        numbers = [int(epochs[i // size][i % size]) for i in place.tolist()]
        own = self._reference() if self.sampling.source == "reference" else params
        answered = self._answer(own, [self._prompts.ids[i] for i in numbers], place.tolist())
        return draw(self._prompts, numbers, answered, self._settings, self._decode)

    def _epoch(self, epoch: int) -> np.ndarray:
        return generator(self._seed, PROMPTS, epoch).permutation(len(self._prompts))

    def _choose(self, params: Params, drawing: Drawing, attempt: int) -> Kept:
        """What is learnt from."""
        method, needs = self._method, self._method.needs()
        if needs.sampling is None:
            kept = recorded(
                method, drawing, self._prompts, self._renderer,
                pairing=self._pairing, attributes=self._attributes,
            )  # fmt: skip
            return self._looked_at(params, kept)
        batch = as_batch(drawing, self._prompts, self._numbers_of(params, drawing))
        key = jax.random.key(self._seed)
        for number in (SELECTION, self._round, attempt):
            key = jax.random.fold_in(key, number)
        origins = [self._prompts.origins[i] for i in drawing.numbers]
        return selected(method, key, batch, origins)

    def _looked_at(self, params: Params, kept: Kept) -> Kept:
        if not self._method.needs().reference or not kept.examples:
            return kept
        found = self._look(params, kept.examples)
        return kept._replace(numbers={"ref_logprobs": found["ref_logprobs"]})

    def _numbers_of(self, params: Params, drawing: Drawing) -> dict[str, np.ndarray]:
        """Arrays [n, k, r] of what the method needs of the drawn tokens, beside what drew them."""
        needs, answered = self._method.needs(), drawing.answered
        found: dict[str, np.ndarray] = {}
        if (
            needs.reference
            and self.sampling.source == "reference"
            and answered.logprobs is not None
            and not self._anew
        ):
            found["ref_logprobs"] = answered.logprobs
        wanted = (needs.reference and not found) or needs.head == "value" or self._anew
        if not wanted and answered.logprobs is not None:
            return found
        examples = [_as_example(drawing, self._prompts, i) for i in range(len(drawing.numbers))]
        n, k, r = answered.tokens.shape
        for name, rows in self._look(params, examples).items():
            table = np.zeros((n, k, r), np.float32)
            for i, row in enumerate(rows):
                start = 0
                for j, length in enumerate(answered.lengths[i].tolist()):
                    table[i, j, :length] = row[start : start + length]
                    start += length
            found.setdefault(name, table)
        if "old_logprobs" in found and answered.logprobs is not None:
            drawing.metrics[DIFFERENCE] = apart(answered, found["old_logprobs"])
        return found

    def _lay_out(self) -> None:
        """The round's steps: its groups, with what is met again, in a new order each epoch."""
        assert self._kept is not None
        kept = self._kept if self._pool is None else self._pool + self._kept
        if self.sampling.replay == "best":
            chosen, fresh = kept.best(), len(kept.examples) - len(self._kept.examples)
            # What has lost against another is never met again: the pool is a group a prompt.
            self._pool = kept.take(again) if (again := [i for i in chosen if i < fresh]) else None
            kept = kept.take(chosen)
        self._groups, self._numbers = InMemory(kept.examples), kept.arrays()
        count, refresh = len(kept.examples), self.sampling.refresh
        met = min(refresh * self._size, count * self.sampling.epochs)
        # An update of no groups would still decay weights and go on with the momentum.
        updates = min(refresh, met)
        each = [
            generator(self._seed, ORDER, self._round * 1000 + epoch).permutation(count)
            for epoch in range(-(-met // count))
        ]
        # Where too little was kept, every update has its share of it.
        order = np.full(updates * self._size, -1)
        order[np.arange(met) * len(order) // met] = np.concatenate(each)[:met]
        plan = make_plan(
            self._groups.lengths, batch_size=self._size, accumulation=self._accumulation,
            num_steps=updates, shards=self._shards, order=order.reshape(updates, self._size),
        )  # fmt: skip
        self._plan = widened(
            plan, prompt=self._prompts.longest, response=self._settings.max_new_tokens,
            fit=self._settings.shapes,
        )  # fmt: skip

    # --- Position

    def position(self) -> dict[str, Any]:
        """Where the next step is, as JSON; what cannot be drawn again goes to a file."""
        found = {"round": self._round, "step": self._step, "cursor": self._cursor}
        begun = self._kept is not None
        if begun and (self._step < len(self._plan) or self.sampling.replay != "none"):
            found["file"] = self._write()
        return found | {"begun": begun}

    def missing(self, position: Mapping[str, Any]) -> str | None:
        """What is wrong with the file of the round that `position` is in; None where nothing is."""
        try:
            if "file" in position:
                self._read(position["file"])
        except BadInput as error:
            return f"{error.where}: {error.got}"
        return None

    def restore(self, position: Mapping[str, Any]) -> None:
        """Goes on from `position`."""
        self._round, self._step = position["round"], position["step"]
        self._cursor = position["cursor"]
        self._kept, self._pool = None, None
        if not position["begun"]:
            return
        if "file" not in position:  # a round is over, and nothing of it is met again
            self._round += 1
            return
        self._kept, *pool = self._read(position["file"])
        self._pool = functools.reduce(operator.add, pool) if pool else None
        self._lay_out()

    def _read(self, name: str) -> list[Kept]:
        if not _FILE.fullmatch(name):
            raise BadInput(
                "the name of a round's file",
                repr(name),
                "The checkpoint is not one of ours: take another.",
                where=str(self._folder),
            )
        return stored(self._folder / name)

    def keep(self, positions: Sequence[Mapping[str, Any]]) -> None:
        """Deletes the files that none of these positions names."""
        named = {position.get("file") for position in positions}
        if processes.is_first():
            # With a dot, what a killed process was writing.
            for path in [*self._folder.glob("round-*.npz"), *self._folder.glob(".round-*")]:
                if path.name not in named:
                    path.unlink()

    def _write(self) -> str:
        assert self._kept is not None
        path = self._folder / f"round-{self._round:06}.npz"
        if processes.is_first():
            self._folder.mkdir(parents=True, exist_ok=True)
            store(path, [self._kept] if self._pool is None else [self._kept, self._pool])
        return path.name


def _as_example(drawing: Drawing, prompts: Prompts, i: int) -> Example:
    lengths = drawing.answered.lengths[i]
    rows = [drawing.answered.tokens[i, j, :length] for j, length in enumerate(lengths.tolist())]
    tokens = np.concatenate(rows)
    return Example(
        prompt=prompts.ids[drawing.numbers[i]],
        responses=tokens,
        response_lengths=lengths,
        mask=np.ones(len(tokens), bool),
        scores=drawing.scores[i],
        origin="",
    )
