"""What of a drawing is learnt from: by a method's own choice, or through its type of record."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.records import (
    Attributed,
    Group,
    Labelled,
    LeftOut,
    Preference,
    Ranking,
    Record,
    Text,
    placed,
)
from alignax.core.selection import best_of_rounds
from alignax.core.types import Batch
from alignax.data.bad_rows import Tally
from alignax.data.chat import Renderer
from alignax.data.convert import CONVERTERS, Pairing, with_unrelated
from alignax.data.pipeline import TokenArrays
from alignax.data.prompts import Prompts
from alignax.data.tokenise import Example
from alignax.generate.drawing import Drawing

# Numbers a token of a batch that are kept with its responses.
PER_TOKEN = ("old_logprobs", "ref_logprobs", "old_values")


class Sampled(str):
    """The text of a sample, with the very tokens that were sampled: encoding may give others.

    Several samples may have one text and unlike tokens: where bytes are no letters, or a special
    token is left out. Methods and converters hand texts on, and so their tokens.
    """

    ids: list[int]

    def __new__(cls, text: str, ids: list[int]) -> "Sampled":
        """A text, and the ids of its tokens."""
        made = super().__new__(cls, text)
        made.ids = ids
        return made


class Kept(NamedTuple):
    """Groups to learn from, and numbers for each of their tokens, in lists of one entry a group.

    Fields:
        numbers: by the name of a field of the batch; responses end to end.
        dropped: what is not learnt from, by reason.
    """

    examples: list[Example]
    numbers: dict[str, list[np.ndarray]]
    dropped: Tally

    def __add__(self, other: "Kept") -> "Kept":  # type: ignore[override]
        # One that has kept nothing may know no numbers either.
        sides = [x for x in (self, other) if x.examples] or [self]
        numbers = {n: [y for x in sides for y in x.numbers[n]] for n in sides[0].numbers}
        dropped = Tally.from_json(dataclasses.asdict(self.dropped))
        for reason, places in other.dropped.places.items():
            for place in places:
                dropped.add(reason, place)
            dropped.counts[reason] += other.dropped.counts[reason] - len(places)
        return Kept([*self.examples, *other.examples], numbers, dropped)

    def take(self, chosen: Sequence[int]) -> "Kept":
        """Some of the groups."""
        numbers = {n: [x[i] for i in chosen] for n, x in self.numbers.items()}
        return Kept([self.examples[i] for i in chosen], numbers, self.dropped)

    def best(self) -> list[int]:
        """Which groups hold the best response to each prompt, of several as good the latest.

        What is not among them will not be once more is kept behind it.
        """
        # A response of no tokens fills a list, and its score is no score.
        found = [e.scores[e.response_lengths > 0].max(initial=-np.inf) for e in self.examples]
        names: dict[bytes, int] = {}
        ids = [names.setdefault(e.prompt.tobytes(), len(names)) for e in self.examples]
        return best_of_rounds(np.array(found, np.float32), np.array(ids, np.int32)).tolist()

    def arrays(self) -> dict[str, TokenArrays]:
        """The numbers as the pipeline reads them."""
        counts = np.array([len(e.responses) for e in self.examples])
        starts = np.cumsum(counts) - counts
        return {
            name: TokenArrays(np.concatenate([*x, np.zeros(0, np.float32)]), starts)
            for name, x in self.numbers.items()
        }


def as_batch(drawing: Drawing, prompts: Prompts, numbers: dict[str, np.ndarray]) -> Batch:
    """A drawing as arrays, padded to one shape for all drawings of a run."""
    answered = drawing.answered
    ids = [prompts.ids[i] for i in drawing.numbers]
    padded = np.zeros((len(ids), prompts.longest), np.int32)
    for row, one in zip(padded, ids, strict=True):
        row[: len(one)] = one
    mask = np.arange(answered.tokens.shape[2]) < answered.lengths[..., None]
    given: dict[str, Any] = {"old_logprobs": answered.logprobs, **numbers}
    fields: dict[str, Any] = {
        "prompts": padded,
        "prompt_lengths": np.array([len(one) for one in ids], np.int32),
        "responses": answered.tokens,
        "mask": mask,
        "scores": drawing.scores,
        "valid": drawing.valid,
        **given,
    }
    return Batch(**fields)


def groups_of_a_prompt(method: Method, num_samples: int, pairing: Pairing = "best-worst") -> int:
    """How many groups the samples of one prompt can make; 1 at least.

    Of a method that samples, through `select`; of another, through its records.
    """
    if method.needs().sampling is None:
        wanted = method.needs().record
        if wanted is Attributed:
            return num_samples
        texts = tuple(str(i) for i in range(num_samples))
        scores = tuple(float(i) for i in range(num_samples))
        try:
            return max(1, len(_records(wanted, "", texts, scores, "", pairing, None)))
        except LeftOut:
            return 1
    return max(1, _selected_shape(method, num_samples)[0])


def responses_of_a_group(method: Method, num_samples: int) -> int:
    """How many responses a group holds that is made of the samples of one prompt; at most."""
    needs = method.needs()
    if needs.sampling is None:
        return {Ranking: num_samples, Preference: 2, Labelled: 2}.get(needs.record, 1)
    return _selected_shape(method, num_samples)[1]


def _selected_shape(method: Method, num_samples: int) -> tuple[int, int]:
    """Groups a prompt, and responses a group, as `Method.select` leaves them."""
    b, k = 2, num_samples
    shape = lambda axes, kind: jax.ShapeDtypeStruct(axes, kind)  # noqa: E731
    numbers = shape((b, k, 1), np.float32)
    fields: dict[str, Any] = {
        "prompts": shape((b, 1), np.int32),
        "prompt_lengths": shape((b,), np.int32),
        "responses": shape((b, k, 1), np.int32),
        "mask": shape((b, k, 1), bool),
        "scores": shape((b, k), np.float32),
        "valid": shape((b, k), bool),
        **dict.fromkeys(PER_TOKEN, numbers),
    }
    found = jax.eval_shape(method.select, jax.random.key(0), Batch(**fields))
    return found.valid.shape[0] // b, found.valid.shape[1]


def selected(method: Method, key: PRNGKeyArray, batch: Batch, origins: Sequence[str]) -> Kept:
    """What `Method.select` keeps of a batch."""
    found = jax.device_get(_select(method)(key, batch))
    examples: list[Example] = []
    lists: dict[str, list] = {n: [] for n in PER_TOKEN if getattr(found, n) is not None}
    dropped = Tally()
    per_prompt = max(1, len(found.valid) // len(batch.valid))
    for i in range(len(found.valid)):
        if not found.valid[i].any():
            origin = origins[min(i // per_prompt, len(origins) - 1)]
            dropped.add("nothing to learn: rewards alike, or none", origin)
            continue
        # A response is its tokens on the mask, and one that is not valid has none.
        rows = [np.flatnonzero(m) if v else np.zeros(0, int)
                for m, v in zip(found.mask[i], found.valid[i], strict=True)]  # fmt: skip
        joined = lambda x, rows=rows: np.concatenate([y[r] for y, r in zip(x, rows, strict=True)])  # noqa: E731
        tokens = joined(found.responses[i])
        examples.append(
            Example(
                prompt=found.prompts[i, : found.prompt_lengths[i]].copy(),  # and not all of them
                responses=tokens,
                response_lengths=np.array([len(r) for r in rows], np.int32),
                mask=np.ones(len(tokens), bool),
                scores=found.scores[i].astype(np.float32),
                origin="",
            )
        )
        for name, column in lists.items():
            column.append(joined(getattr(found, name)[i]).astype(np.float32))
    return Kept(examples, lists, dropped)


@functools.lru_cache(maxsize=8)
def _select(method: Method) -> Callable[[PRNGKeyArray, Batch], Batch]:
    return jax.jit(method.select)


def recorded(
    method: Method,
    drawing: Drawing,
    prompts: Prompts,
    renderer: Renderer,
    *,
    pairing: Pairing = "best-worst",
    attributes: Callable[[Sequence[Text], Sequence[str]], list[dict[str, float]]] | None = None,
) -> Kept:
    """A drawing as the records that a method learns from: its samples a ranking, made into them.

    Args:
        attributes: of responses, for methods that learn from those.
    """
    wanted, dropped = method.needs().record, Tally()
    records: list[Record] = []
    tokens: dict[tuple[str, str], list[int]] = {}
    answered = drawing.answered
    for i, number in enumerate(drawing.numbers):
        prompt, origin = prompts.texts[number], prompts.origins[number]
        good = np.flatnonzero(drawing.valid[i]).tolist()
        responses = tuple(
            Sampled(drawing.texts[i][j], answered.tokens[i, j, : answered.lengths[i, j]].tolist())
            for j in good
        )
        tokens |= {(origin, str(x)): x.ids for x in responses}
        scores = tuple(float(drawing.scores[i, j]) for j in good)
        try:
            records += _records(wanted, prompt, responses, scores, origin, pairing, attributes)
        except LeftOut as useless:
            dropped.add(useless.reason, origin)
    if wanted is Labelled and len({record.prompt for record in records}) < 2:
        for record in records:
            dropped.add("no other prompt to take an unrelated response from", record.origin)
        records = []
    if wanted is Labelled and records:
        records = list(with_unrelated(records, "the samples of a round"))  # type: ignore[arg-type]
    if records:
        method = method.fit(records)
    groups = []
    for record in records:
        try:
            groups.append(placed(method.group(record), record))
        except LeftOut as useless:
            dropped.add(useless.reason, record.origin)
    rendered = [renderer.prompt(group.prompt, group.origin) for group in groups]
    every = {text: ids for (_, text), ids in tokens.items()}
    # Lists of fewer samples, where some do not count, are filled up: one shape for all rounds.
    width = answered.tokens.shape[1] if wanted is Ranking else 0
    examples = [
        _example(group, np.array(ids, np.int32), tokens, every, width)
        for group, ids in zip(groups, renderer.prompt_ids(rendered), strict=True)
    ]
    return Kept(examples, {}, dropped)


def _records(
    wanted: type[Record],
    prompt: Text,
    responses: tuple[str, ...],
    scores: tuple[float, ...],
    origin: str,
    pairing: Pairing,
    attributes: Any,
) -> Sequence[Record]:
    if wanted is Attributed:
        if attributes is None:
            raise BadInput(
                "a reward model of attributes among the rewards",
                "none",
                "Add ModelReward(directory=...) of one to rollout.rewards.parts.",
                where="rollout.rewards",
            )
        given = attributes([prompt] * len(responses), [str(r) for r in responses])
        return [
            Attributed(prompt=prompt, response=r, attributes=a, origin=origin)
            for r, a in zip(responses, given, strict=True)
        ]
    if len(responses) < 2 and wanted is Ranking:
        raise LeftOut("fewer than two responses that count")
    if not responses:
        raise LeftOut("no response that counts")
    ranking = Ranking(prompt=prompt, responses=responses, scores=scores, origin=origin)
    if wanted is Ranking:
        if len(set(scores)) < 2:
            raise LeftOut("all scores equal")
        return [ranking]
    return CONVERTERS[Ranking, wanted](ranking, pairing, ())


def _example(
    group: Group,
    prompt: np.ndarray,
    tokens: dict[tuple[str, str], list[int]],
    every: dict[str, list[int]],
    width: int,
) -> Example:
    texts = [r if isinstance(r, str) else r[-1].content for r in group.responses]
    # A method of one's own may have made a text of its own that is a sample's.
    ids = [
        x.ids if isinstance(x, Sampled) else tokens.get((group.origin, x)) or every[x]
        for x in texts
    ]
    flat = np.array([i for one in ids for i in one], np.int32)
    more = max(0, width - len(ids))  # responses of no tokens, which are not valid
    return Example(
        prompt=prompt,
        responses=flat,
        response_lengths=np.array([len(one) for one in ids] + [0] * more, np.int32),
        mask=np.ones(len(flat), bool),
        scores=np.array([*group.scores, *[0.0] * more], np.float32),
        origin=group.origin,
        attributes=np.array(group.attributes, np.float32) if group.attributes else None,
    )
