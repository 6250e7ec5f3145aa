"""From one type of record to another, so that any data serves any method that it can serve.

Lists become pairs in several ways (`Pairing`); lists, pairs and labels become one another where
nothing has to be made up. All are pure functions of the record: what is random is drawn by a
generator that is seeded with the record's origin, so a row always gives the same pairs.
"""

import itertools
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, cast, get_args

import numpy as np

from alignax.core.errors import BadInput
from alignax.core.records import (
    Demonstration,
    Labelled,
    LeftOut,
    Preference,
    Ranking,
    Record,
    Scored,
)
from alignax.data import pair_scores
from alignax.data.fields import same_kind

Pairing = Literal["best-worst", "adjacent", "all", "random", "tournament", "strength"]
ALL_EQUAL = "all scores equal"


def pairs(ranking: Ranking, pairing: Pairing, strength: Sequence[str] = ()) -> list[Preference]:
    """Pairs of the responses of a list, the better one chosen; ties are not compared.

    - best-worst: the best and the worst, one pair. Of several best or worst, the first.
    - adjacent: in order of score, each with the next one below it.
    - all: every two.
    - random: the responses shuffled and taken two by two (RSO's first-round-rank).
    - tournament: the responses shuffled; the first against the second, whoever wins against the
      third, and so on (RSO's tournament-rank).
    - strength: every two whose sources are named in `strength`; the stronger source's response is
      chosen, whatever the scores.

    Args:
        strength: sources from the weakest to the strongest, for that pairing.

    Returns:
        `margin` is the difference of the scores, or of the places in `strength`.

    Raises:
        LeftOut: no two responses can be compared.

    Example:
        >>> ranking = Ranking(prompt="p", responses=tuple("abcd"), scores=(2.0, 5.0, 2.0, 4.0),
        ...                   sources=("small", "large", "medium", "small"))
        >>> def shown(pairing):
        ...     found = pairs(ranking, pairing, ("small", "medium", "large"))
        ...     return " ".join(f"{p.chosen}>{p.rejected}:{p.margin:g}" for p in found)
        >>> shown("best-worst")
        'b>a:3'
        >>> shown("adjacent")
        'b>d:1 d>a:2'
        >>> shown("all")
        'b>a:3 d>a:2 b>c:3 b>d:1 d>c:2'
        >>> shown("strength")
        'b>a:2 c>a:1 b>c:1 b>d:2 c>d:1'
    """
    if pairing == "strength":
        place = {name: float(i) for i, name in enumerate(strength)}
        worth = [place.get(name) for name in ranking.sources or ("",) * len(ranking.responses)]
        named = [i for i, x in enumerate(worth) if x is not None]
        reason = "fewer than two responses of the sources named"
        found = _compare(ranking, itertools.combinations(named, 2), worth)
    else:
        scores, reason = ranking.scores, ALL_EQUAL
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        match pairing:
            case "best-worst":
                # The worst of those with another text: of one text twice nothing is better.
                first = ranking.responses[order[0]]
                others = [i for i, text in enumerate(ranking.responses) if text != first]
                two = [(order[0], min(others, key=lambda i: scores[i]))] if others else []
            case "adjacent":
                two = list(itertools.pairwise(order))
            case "all":
                two = list(itertools.combinations(range(len(scores)), 2))
            case "random":
                shuffled = _shuffled(ranking)
                two = list(zip(shuffled[::2], shuffled[1::2], strict=False))
            case "tournament":
                first, *rest = _shuffled(ranking)
                two = []
                for other in rest:
                    two.append((first, other))
                    first = max(first, other, key=lambda i: scores[i])
        found = _compare(ranking, two, scores)
    if not found:
        raise LeftOut(reason)
    return found


def _compare(
    ranking: Ranking, two: Iterable[tuple[int, int]], worth: Sequence[float | None]
) -> list[Preference]:
    made = []
    for i, j in two:
        gap = cast(float, worth[i]) - cast(float, worth[j])
        better, worse = (i, j) if gap > 0 else (j, i)
        if gap != 0 and ranking.responses[i] != ranking.responses[j]:
            made.append(
                Preference(
                    prompt=ranking.prompt,
                    chosen=ranking.responses[better],
                    rejected=ranking.responses[worse],
                    margin=float(abs(gap)),
                    origin=ranking.origin,
                    cut=ranking.cut,
                )
            )
    return made


def _shuffled(ranking: Ranking) -> list[int]:
    seed = zlib.crc32(f"{ranking.origin} {ranking.responses}".encode())
    return np.random.default_rng(seed).permutation(len(ranking.responses)).tolist()


def best(ranking: Ranking) -> Demonstration:
    """The best response of a list, the first of several: filtering a prompt at a time.

    Example:
        >>> best(Ranking(prompt="p", responses=("a", "b"), scores=(0.0, 1.0))).response
        'b'
    """
    first = ranking.scores.index(max(ranking.scores))
    return Demonstration(
        prompt=ranking.prompt,
        response=ranking.responses[first],
        origin=ranking.origin,
        cut=ranking.cut,
    )


def singles(ranking: Ranking) -> list[Scored]:
    """Each response of a list with its score.

    Example:
        >>> found = singles(Ranking(prompt="p", responses=("a", "b"), scores=(0.0, 1.0)))
        >>> [(x.response, x.score) for x in found]
        [('a', 0.0), ('b', 1.0)]
    """
    return [
        Scored(
            prompt=ranking.prompt,
            response=response,
            score=score,
            origin=ranking.origin,
            cut=ranking.cut,
        )
        for response, score in zip(ranking.responses, ranking.scores, strict=True)
    ]


def labels(pair: Preference) -> list[Labelled]:
    """The chosen response of a pair as desirable, the rejected one as not.

    Example:
        >>> found = labels(Preference(prompt="p", chosen="a", rejected="b"))
        >>> [(x.response, x.desirable) for x in found]
        [('a', True), ('b', False)]
    """
    return [
        Labelled(
            prompt=pair.prompt,
            response=text,
            desirable=desirable,
            origin=pair.origin,
            cut=pair.cut,
        )
        for text, desirable in ((pair.chosen, True), (pair.rejected, False))
    ]


# (the type that is there, the type that is wanted) -> how, for each way of pairing.
Convert = Callable[[Record, Pairing, Sequence[str]], Sequence[Record]]
CONVERTERS: dict[tuple[type[Record], type[Record]], Convert] = {
    (Ranking, Preference): lambda x, how, strength: pairs(cast(Ranking, x), how, strength),
    (Ranking, Scored): lambda x, how, strength: singles(cast(Ranking, x)),
    (Ranking, Demonstration): lambda x, how, strength: [best(cast(Ranking, x))],
    (Ranking, Labelled): lambda x, how, strength: [
        label for pair in pairs(cast(Ranking, x), how, strength) for label in labels(pair)
    ],
    (Preference, Ranking): lambda x, how, strength: [pair_scores.ranking(cast(Preference, x))],
    (Preference, Scored): lambda x, how, strength: pair_scores.scored(cast(Preference, x)),
    (Preference, Labelled): lambda x, how, strength: labels(cast(Preference, x)),
}


def check(pairing: Pairing, strength: Sequence[str]) -> None:
    """Refuses a way of pairing that lacks what it needs, or gets what it does not read."""
    if pairing == "strength" and len(set(strength)) < 2:
        raise BadInput(
            "the sources of responses, from the weakest to the strongest",
            ", ".join(strength) or "none",
            "Name two or more in data.strength, as the column sources (or models) has them.",
            where="data.strength",
        )
    if pairing != "strength" and strength:
        others = ", ".join(x for x in get_args(Pairing) if x != "strength")
        raise BadInput(
            'data.pairing="strength" where data.strength is given',
            repr(pairing),
            f"Leave data.strength out for {others}.",
            where="data.pairing",
        )


def with_unrelated(records: Sequence[Labelled], where: str) -> list[Labelled]:
    """Each record with a response to the next prompt, round in a circle.

    The first of a prompt's records has the first response to the next prompt, the second the
    second, and so on, from the first again where there are no more. So each response serves as
    often as others do, whatever its label. A prompt's records are those that follow one another.

    Raises:
        BadInput: all records have the same prompt.

    Example:
        >>> rows = ("pa", "pb", "pc", "qd", "qe")
        >>> data = [Labelled(prompt=p, response=r, desirable=True) for p, r in rows]
        >>> [x.unrelated for x in with_unrelated(data, "data.jsonl")]
        ['d', 'e', 'd', 'a', 'b']
    """
    if len({record.prompt for record in records}) < 2:
        raise BadInput(
            "at least two different prompts: responses to others estimate the KL",
            f"one prompt in {len(records)} rows",
            "Give data with more prompts.",
            where=where,
        )
    runs = [list(run) for _, run in itertools.groupby(records, key=lambda record: record.prompt)]
    made = []
    for i, run in enumerate(runs):
        # The last of a circle may have the first one's prompt.
        following = (runs[(i + step) % len(runs)] for step in (1, 2))
        others = next(other for other in following if other[0].prompt != run[0].prompt)
        made += [_with(x, others[j % len(others)]) for j, x in enumerate(run)]
    return made


def _with(record: Labelled, unrelated: Labelled) -> Labelled:
    # A string answers a conversation as one turn of it does, and the other way round.
    before = record.response, unrelated.response
    prompt, (response, other) = same_kind(record.prompt, before)
    whole = (before[0] not in record.cut, before[1] not in unrelated.cut)
    uncut = {text for text, one in zip((response, other), whole, strict=True) if one}
    return Labelled(
        prompt=prompt,
        response=response,
        desirable=record.desirable,
        unrelated=other,
        origin=record.origin,
        cut=frozenset((response, other)) - uncut,
    )
