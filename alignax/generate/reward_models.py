"""A reward that a model gives: one of ours, or a Hugging Face sequence classifier."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32

from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.data.bad_rows import BadRow
from alignax.generate.rewards import Reward, shortened
from alignax.generate.scoring import Scorer, classifier, load_scorer, output_names
from alignax.models import pretrained


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelReward(Reward):
    """An output of a sequence classifier, at the end of each completion: of a reward model that
    `RewardModel` or `AttributeRewardModel` has trained, or of any other.

    Texts are rendered and tokenised anew by the classifier's own template and tokenizer, so it
    need not share the policy's. A completion that was cut is ended like any other, so that the
    score says nothing of the cut: `rollout.missing_end` or `rollout.truncated="mask"` does.
    Weights are read once, in float32, and lie whole on every device
    of the mesh in use; rows are split over its data-parallel axes.

    Fields:
        directory: a model directory, such as "runs/rm/export", or a hub id, of a family that
            alignax computes. Its template is told what its config.json says (`score`, too).
        batch_size: rows of tokens at a time. A row holds a prompt and as many of its completions,
            where they follow one another, as fit some 1,000 tokens.
        template: "chat" renders by the tokenizer's chat template, a plain string as a turn;
            "none" takes strings as they stand.
        chat_template: replaces the tokenizer's template, as in `config.Data`.
        max_length: of prompt and completion, in the classifier's tokens; the model's where None.
            A longer text is a bad one (`Rewards.on_bad`). It is never cut.
        head: which output, counted from 0; None for the only one.
    """

    everywhere: ClassVar[bool] = True
    saved_as: ClassVar[str] = "Model"  # in checkpoints that there are

    directory: str
    batch_size: int = 16
    template: Literal["chat", "none"] = "chat"
    chat_template: str | None = None
    max_length: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """For metrics."""
        return "model"

    def check(self) -> None:
        """Refuses a directory, or a setting, with which nothing can be scored. Reads no weights."""
        self._head()
        limit = classifier(self.directory).max_positions
        for field, value, most in (("batch_size", self.batch_size, None),
                                   ("max_length", self.max_length, limit)):  # fmt: skip
            if value is not None and (value <= 0 or (most is not None and value > most)):
                raise BadInput(
                    "a positive number" + (f", at most the model's {most}" if most else ""),
                    str(value),
                    "Change the setting.",
                    where=f"rewards: {self.name}.{field}",
                )
        self._scorer()

    def check_prompts(self, prompts: Sequence[Text], origins: Sequence[str]) -> None:
        """Refuses prompts with tools, calls or thoughts that the classifier's template leaves out.

        Raises:
            BadInput: with the origin of the first.
        """
        renderer = self._scorer().renderer
        for prompt, origin in zip(prompts, origins, strict=True):
            if isinstance(prompt, str) or not any(x.tools or x.more or x.role == "tool"
                                                  for x in prompt):  # fmt: skip
                continue
            try:
                renderer.render(prompt, ["Yes."])
            except BadRow as error:
                raise BadInput(
                    f"prompts that the reward model {self.directory} can read: {error.expected}",
                    error.got,
                    "Give its chat_template one that writes them (rollout.rewards.parts.N."
                    "chat_template), take another reward model, or leave these prompts out.",
                    where=origin,
                ) from error

    def fingerprint(self) -> str:
        """Of the classifier's config and weights."""
        return pretrained.fingerprint(self.directory)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all outputs, in order."""
        return output_names(self.directory)

    def attributes(
        self, prompts: Sequence[Text], completions: Sequence[str]
    ) -> Float32[np.ndarray, "n c"]:
        """All c outputs for each completion.

        Args:
            prompts: one a completion; where the same one follows itself it is computed once.

        Raises:
            BadRow: a text is too long, holds a special token of the classifier's, or is refused
                by its template.
            BadInput: the directory or a setting is bad, or a prompt is a conversation and the
                template "none".
        """
        scorer = self._scorer()
        self._check_kind(prompts)
        runs: list[tuple[Text, list[str]]] = []
        pairs = zip(prompts, completions, strict=True)
        for prompt, run in itertools.groupby(pairs, key=lambda pair: pair[0]):
            runs.append((prompt, [completion for _, completion in run]))
        groups = scorer.encode([prompt for prompt, _ in runs], [texts for _, texts in runs])
        limit = self.max_length or scorer.decoder.config.max_positions
        for (_, texts), (prompt, responses) in zip(runs, groups, strict=True):
            for text, ids in zip(texts, responses, strict=True):
                if len(prompt) + len(ids) > limit:
                    raise BadRow(
                        "too long for the reward model",
                        f"prompt and completion within {limit} tokens of the reward model",
                        f"{len(prompt)} + {len(ids)} tokens",
                        "Sample shorter completions, or raise max_length.",
                        where=repr(shortened(text)),
                    )
        starts = np.cumsum([0, *(len(texts) for _, texts in runs)])
        found = np.zeros((len(completions), len(scorer.names)), np.float32)
        for group, response, outputs in scorer(groups, batch_size=self.batch_size):
            found[starts[group] + response] = outputs
        return found

    def ratings(
        self, prompts: Sequence[Text], completions: Sequence[str]
    ) -> Float32[np.ndarray, "n c"]:
        """`attributes` as whole numbers of the scale that the model was taught."""
        return self._scorer().ratings(self.attributes(prompts, completions))

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> list[float]:
        """The output `head` for each completion; errors as `attributes`."""
        del completion_ids, columns
        head = self._head()
        return self.attributes(prompts, completions)[:, head].tolist()

    def _scorer(self) -> Scorer:
        return load_scorer(self.directory, template=self.template, chat_template=self.chat_template)

    def _head(self) -> int:
        count = classifier(self.directory).num_scores
        if self.head is None and count == 1:
            return 0
        if self.head is None or not 0 <= self.head < count:
            names = ", ".join(f"{i} {name}" for i, name in enumerate(self.names))
            raise BadInput(
                f"head to name one of the model's {count} outputs: {names}",
                str(self.head),
                "Set head to the number of the output that is the reward.",
                where=f"rewards: {self.name}.head ({self.directory})",
            )
        return self.head

    def _check_kind(self, prompts: Sequence[Text]) -> None:
        if self.template == "none" and any(not isinstance(prompt, str) for prompt in prompts):
            raise BadInput(
                'plain strings as prompts, because the reward model has template="none"',
                "a conversation",
                'Set template="chat", with a reward model that has a chat template.',
                where=f"rewards: {self.name}.template ({self.directory})",
            )
