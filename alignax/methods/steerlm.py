"""SteerLM: learn every response together with its attributes, then ask for those that are wanted.

Dong et al. 2023, arXiv:2310.05344. Step 1, a model that predicts attributes, is
`AttributeRewardModel` (regression, as its authors do since HelpSteer, and not a language model);
step 2, annotation with it, is `alignax score`; step 3, fine-tuning on responses whose prompts say
what they were rated, is here. The request goes to the end of the last user turn.

Step 4, bootstrapping, is a second run of steps 2 and 3 on the first policy's own responses: ask
each prompt for one of the good combinations of attributes that people have written
(`top_combinations`, `bootstrap_targets`), sample several responses (the paper: from the 50 most
probable tokens), annotate them for what they are and not for what was asked, and train on them.
configs/steerlm_summeval.py has the commands.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Array, Float

from alignax.core.attributes import known_attributes
from alignax.core.conditioning import attributes_request, with_request
from alignax.core.errors import BadInput
from alignax.core.likelihood import imitation
from alignax.core.method import Method, Needs
from alignax.core.records import Attributed, Group, Record, Text
from alignax.core.types import Batch, Metrics, Outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteerLM(Method):
    """Supervised fine-tuning on responses whose prompts say what they were rated.

    Fields:
        attributes: their names, in the order in which they are asked for; empty until known, and
            then all of the training data's, by alphabet.
        target: what is asked for once trained, one number an attribute; empty until known, and
            then the highest of each in the training data. Give it where less is better of one, as
            of toxicity.
    """

    attributes: tuple[str, ...] = ()
    target: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.attributes and self.target and len(self.attributes) != len(self.target):
            raise BadInput(
                f"one number for each of {', '.join(self.attributes)}",
                f"{len(self.target)}: {', '.join(f'{x:g}' for x in self.target)}",
                "Give as many, or none for the highest of the training data.",
                where="method.target",
            )

    def needs(self) -> Needs:
        """Responses with attributes, and a mean over the tokens of the whole step."""
        return Needs(record=Attributed, mean_over="tokens")

    def fit(self, records: Sequence[Record]) -> "SteerLM":
        """Takes names and highest ratings from the data, where they are not given.

        Raises:
            BadInput: a record with an attribute that is not among those given; a given one that no
                record has, so that there is no highest; more or fewer targets than attributes;
                ratings in [0, 1] that are no whole numbers, of which a request would leave nothing.
        """
        rated = [cast(Attributed, record) for record in records]
        names = known_attributes(rated, self.attributes)
        _check_scale(rated, names)
        target = self.target or tuple(_highest(rated, name) for name in names)
        return dataclasses.replace(self, attributes=names, target=target)

    def group(self, record: Record) -> Group:
        """The one response, to the prompt with its own attributes asked for."""
        rated = cast(Attributed, record)
        known_attributes([rated], self.attributes)
        own = {n: rated.attributes[n] for n in self.attributes if n in rated.attributes}
        return Group(
            prompt=with_request(rated.prompt, attributes_request(own)),
            responses=(rated.response,),
            scores=(0.0,),
            origin=rated.origin,
        )

    def ask(self, prompt: Text) -> Text:
        """The prompt with the target asked for.

        Raises:
            BadInput: no target is known, as where a run samples and is given none.
        """
        if not self.attributes or len(self.attributes) != len(self.target):
            raise BadInput(
                "attributes, and a target for each",
                f"attributes={self.attributes}, target={self.target}",
                "Set both: there are no rated data to take them from where responses are sampled.",
                where="method",
            )
        wanted = dict(zip(self.attributes, self.target, strict=True))
        return with_request(prompt, attributes_request(wanted))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The summed negative log-likelihood of each response."""
        return imitation(outputs, batch)


def _check_scale(records: Sequence[Attributed], names: Sequence[str]) -> None:
    """Refuses an attribute whose ratings rounding to whole numbers would all make 0 or 1."""
    for name in names:
        rated = [(record, record.attributes[name]) for record in records
                 if name in record.attributes]  # fmt: skip
        between = next(((record, x) for record, x in rated if x != round(x)), None)
        if between is not None and all(0.0 <= x <= 1.0 for _, x in rated):
            record, x = between
            raise BadInput(
                "ratings that differ as whole numbers, such as 0 to 4 or 0 to 9",
                f"{name} {x:g}, and all ratings of it in [0, 1]",
                "Multiply them in the data, by 9 for example: a request says whole numbers.",
                where=record.origin,
            )


def _highest(records: Sequence[Attributed], name: str) -> float:
    ratings = [record.attributes[name] for record in records if name in record.attributes]
    if not ratings:
        known = sorted({other for record in records for other in record.attributes})
        raise BadInput(
            f"responses that were rated for {name}",
            ", ".join(known) or "no attributes",
            "Take it out of method.attributes, or say in method.target what to ask for.",
            where="method.attributes",
        )
    return max(ratings)


def top_combinations(
    attributes: Sequence[Mapping[str, float]], *, quality: str = "quality"
) -> tuple[dict[str, int], ...]:
    """The combinations of attributes that occur together with the highest quality.

    Ratings are rounded first, as a request rounds them, so that no two ask for the same.

    Args:
        attributes: what each response of the data was rated. Those without quality do not count.
        quality: the name of the attribute that is to be highest.

    Returns:
        Each combination once, in the order in which they first occur.

    Raises:
        BadInput: no response was rated for quality.

    Example:
        >>> top_combinations([{"quality": 4, "humor": 1}, {"quality": 3.8, "humor": 0},
        ...                   {"quality": 2, "humor": 3}, {"quality": 4.1, "humor": 1}])
        ({'quality': 4, 'humor': 1}, {'quality': 4, 'humor': 0})
    """
    rated = [{name: round(x) for name, x in each.items()} for each in attributes if quality in each]
    if not rated:
        known = sorted({name for each in attributes for name in each})
        raise BadInput(
            f"responses that were rated for {quality}",
            ", ".join(known) or "no attributes",
            "Name the attribute that is to be highest.",
        )
    highest = max(each[quality] for each in rated)
    found: dict[frozenset, dict[str, int]] = {}
    for each in rated:
        if each[quality] == highest:
            found.setdefault(frozenset(each.items()), each)
    return tuple(found.values())


def bootstrap_targets(
    combinations: Sequence[Mapping[str, int]], *, num_prompts: int, seed: int
) -> tuple[Mapping[str, int], ...]:
    """What to ask of each prompt: one of the combinations, all with the same probability."""
    drawn = np.random.default_rng(seed).integers(len(combinations), size=num_prompts)
    return tuple(combinations[i] for i in drawn)
