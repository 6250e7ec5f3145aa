"""Decision Transformer: learn every response together with its score, then ask for a high one.

Of language models, Hu et al. 2023, arXiv:2308.12050, after Chen et al. 2021, arXiv:2106.01345. The
form of the request is the former's: the prompt, `<rm_score>:` and the score with two decimals, in
deviations from the mean of the training data.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

from jaxtyping import Array, Float

from alignax.core.conditioning import score_request, with_request
from alignax.core.likelihood import imitation
from alignax.core.method import Method, Needs
from alignax.core.records import Group, Record, Scored, Text
from alignax.core.scores import mean_and_deviation
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionTransformer(Method):
    """Supervised fine-tuning on responses whose prompts say how they were scored.

    Fields:
        target: the score that is asked for once trained, in deviations from the mean. The authors
            ask for 5, beyond what is in the data.
        mean: of the scores of the training data; None until it is known.
        deviation: of the scores of the training data; None until it is known.
    """

    target: Scalar = 2.0
    mean: float | None = None
    deviation: float | None = setting(None, at_least=0)

    def needs(self) -> Needs:
        """Scored responses, and a mean over the tokens of the whole step."""
        return Needs(record=Scored, mean_over="tokens")

    def fit(self, records: Sequence[Record]) -> "DecisionTransformer":
        """Takes mean and deviation from the data, each where it is not given."""
        if self.mean is not None and self.deviation is not None:
            return self
        mean, deviation = mean_and_deviation(cast(Scored, x).score for x in records)
        return dataclasses.replace(
            self,
            mean=mean if self.mean is None else self.mean,
            deviation=deviation if self.deviation is None else self.deviation,
        )

    def group(self, record: Record) -> Group:
        """The one response, to the prompt with its own score asked for."""
        scored = cast(Scored, record)
        score = (scored.score - (self.mean or 0.0)) / (self.deviation or 1.0)
        return Group(
            prompt=with_request(scored.prompt, score_request(score)),
            responses=(scored.response,),
            scores=(score,),
            origin=scored.origin,
        )

    def ask(self, prompt: Text) -> Text:
        """The prompt with the target asked for."""
        return with_request(prompt, score_request(float(self.target)))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The summed negative log-likelihood of each response."""
        return imitation(outputs, batch)
