"""Online DPO: pairs of the policy's own samples, ordered by a reward.

Guo et al. 2024, arXiv:2402.04792, with a reward function in the place of the judge: DPO
(arXiv:2305.18290) whose pairs never grow old.
"""

import dataclasses

from jaxtyping import Array, Float, PRNGKeyArray

from alignax.core.method import Method, Needs, Sampling
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import prompt_alone, require_samples
from alignax.core.selection import distinct, pairs, take_pairs
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs, Scalar
from alignax.methods.dpo import DPO


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineDPO(Method):
    """DPO on the best and the worst of each prompt's samples.

    Fields:
        beta: how strongly the policy is held to the reference, above 0.
        label_smoothing: probability, in [0, 0.5), that a pair is mislabelled.
        num_samples: of each prompt, at least 2. With more, the best is paired with the worst.
        temperature: of the samples.
        refresh: updates between two drawings; 1 is wholly online.
        epochs: passes over what was drawn.
    """

    beta: Scalar = setting(0.1, above=0)
    label_smoothing: Scalar = setting(0.0, at_least=0, below=0.5)
    num_samples: int = 2
    temperature: float = setting(1.0, at_least=0)
    refresh: int = setting(1, at_least=1)
    epochs: int = setting(1, at_least=1)

    def __post_init__(self) -> None:
        require_samples(self.num_samples, 2, "A pair takes two.")

    def needs(self) -> Needs:
        """Prompts, a reward and the reference's log-probabilities."""
        return Needs(
            record=Prompt,
            reward=True,
            reference=True,
            sampling=Sampling(
                num_samples=self.num_samples,
                temperature=self.temperature,
                refresh=self.refresh,
                epochs=self.epochs,
            ),
        )

    def group(self, record: Record) -> Group:
        """The prompt alone."""
        return prompt_alone(record)

    def select(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """The best and the worst. None of a prompt whose responses or scores are all the same."""
        del key
        return take_pairs(batch, *pairs(batch.scores, distinct(batch), "best-worst"))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """DPO's loss and metrics of each pair."""
        return DPO(beta=self.beta, label_smoothing=self.label_smoothing).loss(outputs, batch)
