"""Rejection-sampling fine-tuning: imitate the best of K samples, of all rounds so far.

Touvron et al. 2023 (Llama 2), arXiv:2307.09288, section 3.2.3. Each round samples from the newest
policy. Their first versions then learnt from the last round alone and forgot what they could do
before; the later ones learn from the best samples of all rounds. The paper starts every round's
fine-tuning from the same model, and here the policy goes on from where it is; for the former,
begin a run for each round.

Their last version is trained by PPO on top. That is a second run: export this one's model, and
give it to the method that goes on as the model to start from, which is then its reference too.
"""

import dataclasses
from typing import Literal

from jaxtyping import Array, Float, PRNGKeyArray

from alignax.core.likelihood import imitation
from alignax.core.lists import best
from alignax.core.method import Method, Needs, Sampling
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import prompt_alone
from alignax.core.selection import take_best
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class RejectionSampling(Method):
    """Supervised fine-tuning on the best sample of each prompt.

    Fields:
        num_samples: K, the samples of each prompt in a round. The paper: 10 to 100.
        temperature: of the samples. To be chosen anew as the policy changes: the paper finds 1.2
            to 1.3 best for a model that was trained so before.
        replay: what of earlier rounds is learnt from again: "best" for the best sample that any
            round has found for a prompt, "all" for every round's best, "none" for the last round
            alone, which forgets.
        refresh: updates of a round, that is between two drawings. At 128 prompts a step the
            default is 10,240 prompts a round.
        epochs: passes over what a round learns from.
    """

    num_samples: int = setting(10, at_least=1)
    temperature: float = setting(1.0, at_least=0)
    replay: Literal["none", "all", "best"] = "best"
    refresh: int = setting(80, at_least=1)
    epochs: int = setting(1, at_least=1)

    def needs(self) -> Needs:
        """Prompts and a reward, and no reference."""
        return Needs(
            record=Prompt,
            reward=True,
            mean_over="tokens",
            sampling=Sampling(
                num_samples=self.num_samples,
                temperature=self.temperature,
                refresh=self.refresh,
                epochs=self.epochs,
                replay=self.replay,
            ),
        )

    def group(self, record: Record) -> Group:
        """The prompt alone."""
        return prompt_alone(record)

    def select(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """The response with the highest score to each prompt; of several, the first."""
        del key
        return take_best(batch, batch.scores, over="per_prompt")

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The summed negative log-likelihood of each response that was kept."""
        loss, metrics = imitation(outputs, batch)
        return loss, {**metrics, "rewards/best": best(batch.scores, batch.scores, batch.valid)}
