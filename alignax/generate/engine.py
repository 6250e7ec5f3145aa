"""The sampling engine: prompts come as a list, and no long response holds up the others.

Prompts are computed once, longest first, in batches of like lengths, and their responses decoded
together in *slots*. A slot holds a prompt's keys and values and a few responses to it. Between two
stretches of decoding, each one compiled program, the host looks at what has ended: free slots take
the next prompts, and when there are none left, what is still going moves together into fewer slots.
What a response is depends on none of this: its draws come from its prompt's number alone.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from alignax.core import processes
from alignax.core.axes import row_shards
from alignax.core.errors import BadInput
from alignax.core.types import Params
from alignax.data.ladder import rung
from alignax.generate import slots as slots_lib
from alignax.generate.sampler import Sampler, State, advance, going, start
from alignax.models.transformer import Decoder


class Drawn(NamedTuple):
    """Responses to n prompts, in the order of the prompts.

    Fields:
        tokens: 0 after the end.
        lengths: in tokens, the end-of-turn token included.
        logprobs: before truncation, as `choose` has them; 0 after the end.
        ended: whether the response ended by itself.
    """

    tokens: Int[np.ndarray, "n k r"]
    lengths: Int[np.ndarray, "n k"]
    logprobs: Float[np.ndarray, "n k r"]
    ended: Bool[np.ndarray, "n k"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """Draws responses to any number of prompts with one model.

    Fields:
        end_ids: tokens that end a response.
        slots: responses decoded together, at most.
        width: responses of a prompt to a slot, a divisor of `num_samples`: with more, the prompt's
            keys and values are read once for more responses; with fewer, a slot is free sooner.
            None for all of them while they fit.
        places: tokens of a response that the cache has room for at first; it doubles when needed.
        longest: tokens of a prompt that the cache has room for at least: with that of the longest
            of all prompts, call after call finds the programs of the first.
        align: prompts are padded to multiples of it.
        weights: where the parameters lie while responses are decoded, in the structure that
            `Decoder.unstack` gives: on a mesh, whole but for what is split within a product, or
            they would be gathered for every token. None where there is one device.
        smallest: responses that are not moved into fewer slots any more: each number of slots is
            a program to compile.
        tempered: log-probabilities are those at the sampler's temperature, where that is above 0,
            and not at 1.
        fitted: whether arrays fit what is to be computed, by a ladder of sizes; else all are as
            large as they get, so that each program is compiled once.
    """

    model: Decoder
    sampler: Sampler
    end_ids: tuple[int, ...]
    slots: int = 64
    width: int | None = None
    places: int = 128
    longest: int = 1
    align: int = 32
    smallest: int = 16
    tempered: bool = False
    fitted: bool = True
    weights: Any = None

    def __call__(
        self,
        params: Params,
        key: PRNGKeyArray,
        prompts: Sequence[np.ndarray],
        prompt_ids: Sequence[int],
        *,
        limits: Int[np.ndarray, "n k"] | None = None,
    ) -> Drawn:
        """Draws `num_samples` responses to every prompt.

        Args:
            key: with the number of a prompt it decides all that is drawn for it.
            prompts: token ids of each.
            prompt_ids: a number for each prompt, such as its place in the data set.
            limits: tokens at which each response is cut, `max_new_tokens` at most and where not
                given.
        """
        return _Work(self, params, key, prompts, prompt_ids, limits).run()

    def check(self, prompts: Sequence[np.ndarray]) -> None:
        """Refuses prompts that leave no room to answer."""
        room = self.model.config.max_positions - self.sampler.max_new_tokens
        for i, prompt in enumerate(prompts):
            if not 0 < len(prompt) <= room:
                raise BadInput(
                    f"prompts of 1 to {room} tokens: the model has "
                    f"{self.model.config.max_positions} positions, and "
                    f"{self.sampler.max_new_tokens} are for the answer",
                    f"{len(prompt)} tokens",
                    "Leave the prompt out, or lower max_new_tokens.",
                    where=f"prompt {i}",
                )

    @functools.cached_property
    def _unstack(self) -> Any:
        if self.weights is None:
            return functools.partial(_unstack, self.model)
        return jax.jit(
            functools.partial(self.model.unstack, joined=False), out_shardings=self.weights
        )


# Compiled once for each model, sampler and shape, and shared by all engines of a process.


@functools.partial(jax.jit, static_argnums=0)
def _unstack(model: Decoder, params: Params) -> Params:
    return model.unstack(params)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("places", "width"))
def _start(
    model: Decoder,
    sampler: Sampler,
    params: Params,
    key: PRNGKeyArray,
    prompts: Any,
    lengths: Any,
    ids: Any,
    *,
    places: int,
    width: int,
) -> State:
    """Prompts to slots: [b, p] to b * k / width of them."""
    state = start(model, params, key, prompts, lengths, ids, sampler=sampler, places=places)
    return slots_lib.split(state, width)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _advance(
    model: Decoder,
    sampler: Sampler,
    tempered: bool,
    end_ids: tuple[int, ...],
    weights: Params,
    state: State,
    greedy: Any,
    steps: Any,
    until: Any,
) -> State:
    return advance(
        model, weights, state, jnp.asarray(end_ids, jnp.int32), steps, until,
        sampler=sampler, greedy=greedy if sampler.greedy_first else None, tempered=tempered,
    )  # fmt: skip


def _even(count: int) -> int:
    """A rung that the mesh in use divides."""
    shards = row_shards()
    return shards * rung(-(-count // shards))


class _Work:
    """One call of an engine."""

    def __init__(
        self, engine: Engine, params: Params, key: Any, prompts: Any, ids: Any, limits: Any
    ):
        engine.check(prompts)
        k, r = engine.sampler.num_samples, engine.sampler.max_new_tokens
        self.engine, self.params, self.key = engine, params, key
        self.prompts, self.ids = prompts, np.asarray(ids, np.int32)
        width = engine.width or (k if k <= engine.slots else 1)
        if k % width or width > engine.slots:
            raise BadInput(
                f"a width that divides {k} samples and fits into {engine.slots} slots",
                str(width),
                "Leave it out, or change one of them.",
                where="width",
            )
        self.limits = np.full((len(prompts), k), r, np.int32)
        if limits is not None:
            self.limits = np.minimum(limits, r).astype(np.int32)
        # A prompt's samples are begun together, even where they are more than there are slots.
        self.width, self.num_slots = width, max(engine.slots, k) // width
        # Longest first, so that prompts computed together are of like lengths.
        self.queue = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        n = len(prompts)
        self.drawn = Drawn(
            tokens=np.zeros((n, k, r), np.int32),
            lengths=np.zeros((n, k), np.int32),
            logprobs=np.zeros((n, k, r), np.float32),
            ended=np.zeros((n, k), bool),
        )
        # Of each slot and column: the prompt and the sample that lies there; -1 for none.
        self.owner = np.full((0, width, 2), -1, np.int64)
        self.places = min(engine.places, r)
        longest = max([engine.longest, *(len(x) for x in prompts)])
        self.prompt_room = -(-longest // engine.align) * engine.align
        self.state: State | None = None

    def run(self) -> Drawn:
        weights = self.engine._unstack(self.params)
        while self.queue or (self.owner >= 0).any():
            self.admit()
            state = self.state
            assert state is not None
            # What is live is still going: `collect` leaves nothing else its owner.
            live = self.owner[..., 0] >= 0
            longest = int(processes.fetch(state.samples.lengths)[live].max())
            if longest >= self.places:
                self.places = min(2 * self.places, self.engine.sampler.max_new_tokens)
                state = slots_lib.grown(state, self.places)
            self.state = _advance(
                self.engine.model,
                self.engine.sampler,
                self.engine.tempered,
                tuple(self.engine.end_ids),
                weights,
                state,
                self.owner[..., 1] == 0,
                np.int32(self.places - longest),
                np.int32(self.until(live)),
            )
            self.collect()
        return self.drawn

    def until(self, live: Bool[np.ndarray, "n w"]) -> int:
        """How many responses may still be going when it is time to look up."""
        active = int(live.sum())
        if self.queue:  # by then a quarter of the responses, and so some slots, are free
            return max(0, active - max(1, live.size // 4))
        if not self.movable(live):
            return 0
        return min(active - 1, slots_lib.worth_moving(*live.shape))

    def movable(self, live: Bool[np.ndarray, "n w"]) -> bool:
        """Whether what is left may go into fewer slots."""
        return self.engine.fitted and live.size > self.engine.smallest

    def admit(self) -> None:
        """Computes the next prompts into free slots."""
        parts = self.engine.sampler.num_samples // self.width  # slots that a prompt takes
        if self.state is None:
            slots = min(self.num_slots, parts * len(self.queue))
            self.owner = np.full((_even(slots), self.width, 2), -1, np.int64)
        free = np.flatnonzero((self.owner[..., 0] < 0).all(axis=1))
        count = min(len(self.queue), len(free) // parts)
        most = max(1, len(self.owner) // parts // 4)  # prompts computed together
        while count > 0:
            chosen = self.queue[: min(count, most)]
            self.queue, count = self.queue[len(chosen) :], count - len(chosen)
            index, free = free[: len(chosen) * parts], free[len(chosen) * parts :]
            owner = np.empty((len(chosen), parts, self.width, 2), np.int64)
            owner[..., 0] = np.reshape(chosen, (-1, 1, 1))
            owner[..., 1] = np.arange(parts * self.width).reshape(parts, self.width)
            self.owner[index] = owner.reshape(-1, self.width, 2)
            size = len(chosen) if self.engine.fitted else most
            self.place(self.compute(chosen, _even(size)), index)

    def compute(self, chosen: list[int], size: int) -> State:
        """Slots with these prompts, their number filled up to `size`."""
        align, room = self.engine.align, self.prompt_room
        if self.engine.fitted:
            room = min(align * rung(-(-len(self.prompts[chosen[0]]) // align)), room)
        filled = chosen + [chosen[-1]] * (size - len(chosen))
        padded = np.zeros((len(filled), room), np.int32)
        for row, number in zip(padded, filled, strict=True):
            row[: len(self.prompts[number])] = self.prompts[number]
        lengths = np.array([len(self.prompts[i]) for i in filled], np.int32)
        fresh = _start(
            self.engine.model, self.engine.sampler, self.params, self.key, padded, lengths,
            self.ids[filled], places=self.places, width=self.width,
        )  # fmt: skip
        limits = self.limits[filled].reshape(-1, self.width)
        fresh = fresh._replace(limits=limits)  # type: ignore[arg-type]
        return slots_lib.with_prompt_room(fresh, self.prompt_room)

    def place(self, fresh: State, index: np.ndarray) -> None:
        """Puts fresh slots into free ones."""
        if self.state is None:
            self.state = slots_lib.empty(fresh, len(self.owner))
        beyond = np.full(fresh.keys.shape[0] - len(index), len(self.owner))
        self.state = slots_lib.placed(self.state, fresh, np.concatenate([index, beyond]))

    def collect(self) -> None:
        """Brings home what has ended, and moves the rest together."""
        state = self.state
        assert state is not None
        samples, active = processes.fetch((state.samples, going(state)))
        slot, column = np.nonzero((self.owner[..., 0] >= 0) & ~active)
        prompt, sample = self.owner[slot, column].T
        for mine, theirs in zip(self.drawn, samples, strict=True):
            mine[prompt, sample] = theirs[slot, column]
        self.owner[slot, column] = -1
        left = self.owner[..., 0] >= 0
        if not self.queue and left.any() and self.movable(left):
            self.state, self.owner = slots_lib.together(state, self.owner)
