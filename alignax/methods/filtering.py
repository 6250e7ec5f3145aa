"""Offline filtering: maximum likelihood of the best responses of a data set, and of no others.

Hu et al. 2023, arXiv:2308.12050, as one of its three offline methods. For the best response to
each prompt, give SFT a ranked list.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

from jaxtyping import Array, Float

from alignax.core.likelihood import imitation
from alignax.core.method import Method, Needs
from alignax.core.records import Group, LeftOut, Record, Scored
from alignax.core.scores import threshold
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filtering(Method):
    """Supervised fine-tuning on the best-scored responses of the whole data set.

    Fields:
        keep: the share of the training data that is kept, in (0, 1]; more where others score as
            the lowest of these do.
        lowest: the score from which on a response is kept; None until it is known, and then
            `keep` no longer counts.
    """

    keep: float = setting(0.5, above=0, at_most=1)
    lowest: float | None = None

    def needs(self) -> Needs:
        """Scored responses, and a mean over the tokens of the whole step."""
        return Needs(record=Scored, mean_over="tokens")

    def fit(self, records: Sequence[Record]) -> "Filtering":
        """Finds the lowest score that is kept, where it is not given."""
        if self.lowest is not None:
            return self
        scores = (cast(Scored, record).score for record in records)
        return dataclasses.replace(self, lowest=threshold(scores, keep=self.keep))

    def group(self, record: Record) -> Group:
        """The one response. It is left out, and counted, where its score is too low."""
        scored = cast(Scored, record)
        if self.lowest is not None and scored.score < self.lowest:
            raise LeftOut(f"scored below {self.lowest:g}")
        return Group(
            prompt=scored.prompt,
            responses=(scored.response,),
            scores=(scored.score,),
            origin=scored.origin,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The summed negative log-likelihood of each response."""
        return imitation(outputs, batch)
