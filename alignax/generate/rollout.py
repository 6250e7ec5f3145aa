"""Settings of the responses that are sampled while training."""

import dataclasses
from typing import Literal

from alignax.core.errors import BadInput
from alignax.core.method import Method, Sampling
from alignax.core.setting_types import setting
from alignax.data.ladder import Fit
from alignax.generate.rewards import Rewards
from alignax.generate.sampler import Sampler
from alignax.generate.server import Server


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """Responses that are sampled while training, and what they are worth.

    What is None is as the method says; a method that says nothing of sampling, such as one that
    learns from pairs, draws 4 samples a prompt for every update.

    Fields:
        rewards: of a response. Without any, nothing is sampled, and all else stays as it is.
        max_new_tokens: a response is cut here.
        num_samples: of each prompt, for a method that says nothing of it.
        temperature, top_p, top_k, min_p: of the samples. A policy gradient is then one of the
            policy at that temperature (`Needs.tempered`).
        source: whose samples: the policy being trained, or the reference.
        refresh: updates between two drawings.
        epochs: passes over what was drawn.
        replay: what of earlier drawings is learnt from again: "none", "all", or of each prompt
            the "best"; `generate.rounds` says how much of it a round meets. Held in memory and
            written beside each checkpoint: a group a prompt at most, or with "all" more with every
            round; a run says how much before it begins. Where a loss needs samples of the policy
            as it is (`Needs.on_policy`), these four stay as they are.
        truncated: whether a response that was cut is learnt from ("keep") or not ("mask"). ReMax
            needs its greedy answer: with "mask" a prompt whose greedy answer was cut teaches
            nothing. Rewards see no cut in a text, and `ModelReward` ends it as any other.
        missing_end: taken off the reward of a response that was cut, at least 0, before anything is
            chosen by rewards: one that was cut is no equal of one that ended.
        slots: responses decoded together.
        shapes: of the arrays of rounds and of the sampler. "fitted": from a ladder of sizes, with
            little padding; "longest": as large as they can get, so that each program is compiled
            once, which is faster where a model is small and a run short; "halves": so too, but
            for an update with half as many rows where they hold a round.
        server: draws the samples in place of the trained model, with weights of its own.
        max_draws: drawings for one round, where prompts teach nothing and others are drawn. A run
            that goes on may have another number.
        kept: prompts of each drawing whose samples are kept in rollouts.jsonl.
        show_every: drawings between two tables of samples; 0 for none.
    """

    rewards: Rewards = Rewards(parts=())
    max_new_tokens: int = 128
    num_samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    source: Literal["policy", "reference"] | None = None
    refresh: int | None = setting(None, at_least=1)
    epochs: int | None = setting(None, at_least=1)
    replay: Literal["none", "all", "best"] | None = None
    truncated: Literal["keep", "mask"] = "keep"
    missing_end: float = setting(0.0, at_least=0)
    slots: int = setting(64, at_least=1)
    shapes: Fit = "fitted"
    server: Server | None = None
    max_draws: int = setting(10, at_least=1)
    kept: int = setting(8, at_least=0)
    show_every: int = setting(10, at_least=0)

    def __bool__(self) -> bool:
        return bool(self.rewards.parts)

    def sampling(self, method: Method) -> Sampling:
        """How responses are drawn: the method's way, and what is set here."""
        found = method.needs().sampling or Sampling(num_samples=4)
        names = [field.name for field in dataclasses.fields(found)]
        given = {name: getattr(self, name, None) for name in names}
        return dataclasses.replace(found, **{n: x for n, x in given.items() if x is not None})

    def sampler(self, method: Method) -> Sampler:
        """The sampler of a method's responses."""
        sampling = self.sampling(method)
        return Sampler(
            num_samples=sampling.num_samples,
            max_new_tokens=self.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            greedy_first=sampling.greedy_first,
        )

    def check(self, method: Method) -> None:
        """Refuses settings that cannot work, before anything is allocated."""
        needs = method.needs()
        if not self:
            if needs.reward or needs.sampling is not None:
                raise BadInput(
                    f"a reward, for {type(method).__name__} learns from its own samples",
                    "none",
                    "Set rollout=Rollout(rewards=Rewards(parts=(...,))).",
                    where="rollout.rewards",
                )
            self._check_unused()
            return
        if needs.head == "reward" or needs.schedule is not None:
            raise BadInput(
                "a method that can learn from the policy's own samples",
                f"{type(method).__name__}, which "
                + ("trains no policy" if needs.head == "reward" else "orders all its data first"),
                "Leave rollout.rewards out, and give it a data set.",
                where="rollout.rewards",
            )
        if needs.sampling is not None and self.num_samples is not None:
            raise BadInput(
                f"method.num_samples to say how many, for {type(method).__name__} depends on it",
                f"rollout.num_samples={self.num_samples}",
                "Set method.num_samples, and leave this one out.",
                where="rollout.num_samples",
            )
        self.rewards.check()
        self.sampler(method).check("rollout")
        self._check_several(method)
        if needs.on_policy:
            self._check_on_policy(method)

    def _check_several(self, method: Method) -> None:
        """Refuses settings by which all samples of a prompt are one, where several are drawn."""
        sampling = self.sampling(method)
        if sampling.num_samples == 1:
            return
        for name, greedy, others in (
            ("temperature", 0, "above 0"), ("top_k", 1, "of at least 2, or 0 for all"),
            ("min_p", 1, "below 1"),
        ):  # fmt: skip
            if getattr(sampling, name) == greedy:
                of_method = getattr(self, name) is None
                raise BadInput(
                    f"a number {others}: the likeliest tokens alone make all "
                    f"{sampling.num_samples} samples of a prompt one, and {type(method).__name__} "
                    "learns nothing from how they differ",
                    repr(getattr(sampling, name)),
                    "Raise the temperature, or leave out what cuts all but the likeliest token; or "
                    "set num_samples to 1, where the method takes one.",
                    where=f"{'method' if of_method else 'rollout'}.{name}",
                )

    def _check_unused(self) -> None:
        """Refuses settings of samples where nothing is sampled."""
        others = [x.name for x in dataclasses.fields(self) if getattr(self, x.name) != x.default]
        if others:
            raise BadInput(
                f"a reward beside {', '.join(f'rollout.{name}' for name in others)}, for without "
                "any nothing is sampled",
                "none",
                "Set rollout=Rollout(rewards=Rewards(parts=(...,)), ...) to learn from samples, or "
                "leave these out to learn from the data set.",
                where="rollout.rewards",
            )

    def _check_on_policy(self, method: Method) -> None:
        """Refuses samples that are not, or no longer, the policy's own."""
        sampling, fresh = self.sampling(method), Sampling(num_samples=1)
        for name in ("refresh", "epochs", "replay", "source"):
            wanted, got = getattr(fresh, name), getattr(sampling, name)
            if got != wanted:
                of_method = getattr(self, name) is None
                raise BadInput(
                    f"{wanted!r}, for the loss of {type(method).__name__} takes every sample for "
                    "the policy's own of this update",
                    repr(got),
                    "Leave it out; or learn from older samples by a loss with a ratio of the "
                    "policies, such as PPO, GRPO or RLOO with method.clip.",
                    where=f"{'method' if of_method else 'rollout'}.{name}",
                )
