"""Pairs as ranked lists, or as single scored responses: what their scores are, on one scale.

A pair may say how its responses were scored, or by how much the chosen one is better, or neither.
Numbers of these three kinds cannot be compared, so all pairs of a data set are read by one.
"""

from collections.abc import Iterable

from alignax.core.records import LeftOut, Preference, Ranking, Scored
from alignax.data.bad_rows import BadRow

# What the two responses of a pair are scored, chosen first; the most telling kind first.
KINDS = ("score_chosen and score_rejected", "margin and 0", "1 and 0")
AGAINST = "chosen response scored below the rejected one"


def ranking(pair: Preference) -> Ranking:
    """A pair as a list of two, with the scores that a judge gave them.

    Where no judge did, the chosen one's score is the pair's margin, or 1 if it has none, and the
    rejected one's 0. Equal scores, or a margin of 0, are a tie.

    Raises:
        LeftOut: the scores are against the choice, or the margin is below 0: which of the two is
            the better one cannot be said.

    Example:
        >>> ranking(Preference(prompt="p", chosen="a", rejected="b", margin=2.5)).scores
        (2.5, 0.0)
        >>> ranking(Preference(prompt="p", chosen="a", rejected="b", scores=(9.0, 8.5))).scores
        (9.0, 8.5)
    """
    if reason := against(pair):
        raise LeftOut(reason)
    return Ranking(
        prompt=pair.prompt,
        responses=(pair.chosen, pair.rejected),
        scores=pair.scores or (1.0 if pair.margin is None else pair.margin, 0.0),
        origin=pair.origin,
        cut=pair.cut,
    )


def scored(pair: Preference) -> list[Scored]:
    """The two responses of a pair, each with its score, as `ranking` has it.

    Scores that a judge gave are taken as they are, against the choice too: each is of one response,
    whatever the other.

    Raises:
        LeftOut: nobody scored the responses, and the margin is below 0.

    Example:
        >>> found = scored(Preference(prompt="p", chosen="a", rejected="b", scores=(3.0, 5.0)))
        >>> [(x.response, x.score) for x in found]
        [('a', 3.0), ('b', 5.0)]
    """
    scores = pair.scores or ranking(pair).scores
    return [
        Scored(prompt=pair.prompt, response=response, score=score, origin=pair.origin, cut=pair.cut)
        for response, score in zip((pair.chosen, pair.rejected), scores, strict=True)
    ]


def against(pair: Preference) -> str:
    """How a judge contradicts the choice, as it is counted; empty where none does.

    Example:
        >>> against(Preference(prompt="p", chosen="a", rejected="b", scores=(3.0, 5.0)))
        'chosen response scored below the rejected one'
    """
    if pair.scores is not None:
        return AGAINST if pair.scores[0] < pair.scores[1] else ""
    return "margin below 0" if pair.margin is not None and pair.margin < 0 else ""


def kind(pairs: Iterable[Preference]) -> str:
    """The kind of scores that these pairs are to be read by: the most telling that one of them has.

    Example:
        >>> one = Preference(prompt="p", chosen="a", rejected="b", margin=2.5)
        >>> other = Preference(prompt="p", chosen="a", rejected="b", scores=(9.0, 8.5))
        >>> kind([one]), kind([one, other])
        ('margin and 0', 'score_chosen and score_rejected')
    """
    return KINDS[min(map(_place, pairs))]


def check(pair: Preference, wanted: str) -> None:
    """Refuses a pair whose scores would be of another kind.

    Args:
        wanted: of `KINDS`, what the pairs of its data set are read by.

    Raises:
        BadRow: the pair lacks what others have.
    """
    place = _place(pair)
    if KINDS[place] == wanted:
        return
    if wanted == KINDS[0]:
        name, it, remedy = "scores", "them", "Score them all with `alignax score`"
        column = "score_chosen and score_rejected"
    else:
        name, it, remedy, column = "a margin", "one", "Give every row one", "the column margin"
    raise BadRow(
        f"pair without {name}",
        f"{name} in every row: other rows have {it}, and numbers of two kinds cannot be compared",
        "none, or null" if place == 2 else "a margin alone",
        f"{remedy}, take {column} out of all rows, or set on_bad_row='drop'.",
        where=pair.origin,
    )


def _place(pair: Preference) -> int:
    return 0 if pair.scores is not None else 1 if pair.margin is not None else 2
