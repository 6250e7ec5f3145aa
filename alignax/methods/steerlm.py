"""SteerLM: learn every response together with its attributes, then ask for those that are wanted.

Dong et al. 2023, arXiv:2310.05344. Step 1, a model that predicts attributes, is
`AttributeRewardModel` (regression, as its authors do since HelpSteer, and not a language model);
step 2, annotation with it, is `alignax score`; step 3, fine-tuning on responses whose prompts say
what they were rated, is here. The request goes to the end of the last user turn.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

from jaxtyping import Array, Float

from alignax.core.attributes import known_attributes
from alignax.core.conditioning import attributes_request, with_request
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
            then the highest of each in the training data.
    """

    attributes: tuple[str, ...] = ()
    target: tuple[float, ...] = ()

    def needs(self) -> Needs:
        """Responses with attributes, and a mean over the tokens of the whole step."""
        return Needs(record=Attributed, mean_over="tokens")

    def fit(self, records: Sequence[Record]) -> "SteerLM":
        """Takes names and highest ratings from the data, where they are not given.

        Raises:
            BadInput: a record with an attribute that is not among those given.
        """
        rated = [cast(Attributed, record) for record in records]
        names = known_attributes(rated, self.attributes)
        highest = tuple(max(x.attributes.get(n, float("-inf")) for x in rated) for n in names)
        return dataclasses.replace(self, attributes=names, target=self.target or highest)

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
        """The prompt with the target asked for."""
        wanted = dict(zip(self.attributes, self.target, strict=True))
        return with_request(prompt, attributes_request(wanted))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The summed negative log-likelihood of each response."""
        return imitation(outputs, batch)
