"""Reward models of several attributes: regression on what people rated.

Wang et al. 2023, arXiv:2311.09528 (HelpSteer); it takes the place of SteerLM's attribute
prediction model, arXiv:2310.05344.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.attributes import known_attributes
from alignax.core.errors import BadInput
from alignax.core.method import LOSS_ALONE, Method, Needs, over_step
from alignax.core.records import Attributed, Group, Record
from alignax.core.types import Batch, Metrics, Outputs


def attribute_regression(
    predicted: Float[Array, "*b c"], rated: Float[Array, "*b c"]
) -> Float[Array, "*b"]:
    """mean over the attributes that were rated of (predicted - rated)^2.

    Args:
        predicted: the reward model's of each attribute.
        rated: what people gave, NaN where they did not. A constant.

    Returns:
        One loss a response, in squared units of the ratings, float32. 0 where none was rated.
    """
    known = jnp.isfinite(rated)
    error = predicted.astype(jnp.float32) - jnp.where(known, rated, 0.0)
    count = jnp.maximum(jnp.sum(known, axis=-1, dtype=jnp.float32), 1.0)
    return jnp.sum(jnp.where(known, error**2, 0.0), axis=-1) / count


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributeRewardModel(Method):
    """A model that predicts the attributes of a response, one output each.

    Fields:
        attributes: their names, in the order of the head's outputs; empty until known, and then
            all of the training data's, by alphabet.
        lowest_rating: of each, below which whole numbers of the trained model do not go
            (arXiv:2310.05344: 0); empty until known, and then the training data's.
        highest_rating: of each, above which they do not go (4), in the same way.
    """

    attributes: tuple[str, ...] = ()
    lowest_rating: tuple[float, ...] = dataclasses.field(default=(), metadata=LOSS_ALONE)
    highest_rating: tuple[float, ...] = dataclasses.field(default=(), metadata=LOSS_ALONE)

    def __post_init__(self) -> None:
        for name in ("lowest_rating", "highest_rating"):
            given = getattr(self, name)
            if self.attributes and given and len(given) != len(self.attributes):
                raise BadInput(
                    f"one number for each of {', '.join(self.attributes)}",
                    f"{len(given)}: {', '.join(f'{x:g}' for x in given)}",
                    "Give as many, or none for those of the training data.",
                    where=f"method.{name}",
                )

    def needs(self) -> Needs:
        """Responses with attributes, and a reward head with an output for each."""
        names = self.attributes or ("not known yet",)
        ranges = tuple(zip(self.lowest_rating, self.highest_rating, strict=False))
        return Needs(record=Attributed, head="reward", score_names=names, score_ranges=ranges)

    def fit(self, records: Sequence[Record]) -> "AttributeRewardModel":
        """Takes names and scales from the data, where they are not given.

        Raises:
            BadInput: a record with an attribute that is not among those given.
        """
        rated = [cast(Attributed, record) for record in records]
        names = known_attributes(rated, self.attributes)
        found = [[x.attributes.get(name, math.nan) for x in rated] for name in names]
        known = [[x for x in ratings if not math.isnan(x)] for ratings in found]
        return dataclasses.replace(
            self,
            attributes=names,
            lowest_rating=self.lowest_rating or tuple(min(x, default=-math.inf) for x in known),
            highest_rating=self.highest_rating or tuple(max(x, default=math.inf) for x in known),
        )

    def group(self, record: Record) -> Group:
        """The one response and its ratings, NaN where it has none."""
        rated = cast(Attributed, record)
        known_attributes([rated], self.attributes)
        return Group(
            prompt=rated.prompt,
            responses=(rated.response,),
            scores=(0.0,),
            attributes=(tuple(rated.attributes.get(n, math.nan) for n in self.attributes),),
            origin=rated.origin,
        )

    def means(self, outputs: Outputs, batch: Batch) -> Metrics:
        """Of each attribute, whether the response was rated: on average, the share that was."""
        del outputs
        assert batch.attributes is not None, "the groups of this method have attributes"
        rated = jnp.isfinite(batch.attributes[:, 0]).astype(jnp.float32)
        return {name: rated[:, i] for i, name in enumerate(self.attributes)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The regression of each response; `mse/NAME` for each attribute.

        Its mean is over the responses that were rated for it: a squared error is divided by the
        share that was, and is 0 where a response was not. 0 too where none was.
        """
        assert outputs.attributes is not None, "the model is built from needs().head"
        assert batch.attributes is not None, "the groups of this method have attributes"
        predicted, rated = outputs.attributes[:, 0], batch.attributes[:, 0]
        loss, shares = attribute_regression(predicted, rated), over_step(self, outputs, batch)
        error = {}
        for i, name in enumerate(self.attributes):
            squared = attribute_regression(predicted[:, i : i + 1], rated[:, i : i + 1])
            error[f"mse/{name}"] = squared / jnp.where(shares[name] > 0.0, shares[name], 1.0)
        return loss, error
