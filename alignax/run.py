"""A run, put together: from an experiment to a trained and exported model.

The order is the order of the data's way: settings, tokenizer, data, preflight, model, reference,
plan, update, loop, export. Everything here is glue; each line calls the room that does the work.
"""

import copy
import dataclasses
import functools
import hashlib
import logging
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from alignax import remarks
from alignax.config import Experiment
from alignax.core import own_code, processes
from alignax.core.errors import BadInput
from alignax.core.method import scalars, text_settings, with_scalars
from alignax.core.records import Group, Record
from alignax.core.telling import through
from alignax.core.types import Params
from alignax.data import lints
from alignax.data.builder import prepare
from alignax.data.chat import Renderer
from alignax.data.curriculum import order
from alignax.data.in_memory import is_written
from alignax.data.pipeline import Groups, Numbers
from alignax.data.plan import Plan, make_plan
from alignax.data.preflight import check_prompts, preflight, table
from alignax.data.prepared import Prepared
from alignax.data.prompts import Prompts, load_prompts
from alignax.data.tokenizers import end_ids, load_tokenizer
from alignax.generate.kept import groups_of_a_prompt
from alignax.models import peft, pretrained
from alignax.networks import Networks
from alignax.train import reference, sharding

log = logging.getLogger("alignax")
console = Console(emoji=False)  # ":x:" in a text or a path is no picture


@dataclasses.dataclass(eq=False)
class Run(Networks):
    """What an experiment needs, each part made when it is first asked for.

    `train`, `evaluate`, `export` and the notebooks' widgets share it.
    """

    quiet: bool = False

    def like(self, experiment: Experiment) -> "Run":
        """A quiet one of another seed, length, output_dir and other numbers of type `Scalar`.

        All that does not depend on these, and is made already, is shared.
        """
        other = copy.copy(self)
        other.experiment = experiment
        for name in ("plan", "num_steps"):
            vars(other).pop(name, None)
        # What the method took from the data stays.
        other.method = with_scalars(self.method, scalars(experiment.method))
        other.quiet = True
        return other

    # --- Text

    @functools.cached_property
    def renderer(self) -> Renderer:
        """The model's tokenizer with its chat template."""
        data = self.experiment.data
        return Renderer(
            tokenizer=load_tokenizer(self.model_dir),
            template=data.template,
            chat_template=data.chat_template,
            chat_template_kwargs=data.chat_template_kwargs,
            extra_end_ids=end_ids(self.model_dir),
        )

    @functools.cached_property
    def code(self) -> str:
        """Of a method that is not this package's, its code in a word; a new one if not known."""
        found = own_code.key(type(self.method))
        if found is None:
            self.say(
                f"[yellow]not kept for later[/]: the prepared data of {type(self.method).__name__},"
                " whose source Python does not know; define it in a file"
            )
            word = processes.told(np.frombuffer(secrets.token_bytes(8), np.uint8))
            return bytes(word).hex()
        return found

    @functools.cache  # noqa: B019 - a run lives as long as its process
    def prepared(self, which: str, *, asked: bool = False) -> Prepared:
        """The tokenised data set: `train` or `eval`.

        Args:
            asked: its prompts as the trained policy is asked, and not as it learns from them.
        """
        data, method, code = self.experiment.data, self.method, self.code
        reading = self._reading(which)

        def asking(record: Record) -> Group:
            return dataclasses.replace(method.group(record), prompt=method.ask(record.prompt))

        try:
            with processes.first_before_others():
                return prepare(
                    reading.pop("source"),
                    asking if asked else method.group,
                    method.needs().record,
                    self.renderer,
                    data.limits,
                    **reading,
                    grouping=f"asked by {method}" if asked else text_settings(method),
                    code=code,
                    cache_dir=data.cache_dir,
                    pairing=data.pairing,
                    strength=data.strength,
                    scored_turns=data.scored_turns,
                    judged=method.needs().head == "reward",
                )
        # ArrayRecord tells of a full disk by a RuntimeError.
        except (OSError, RuntimeError) as error:
            if "No space left" not in str(error):
                raise
            raise BadInput(
                "room for the prepared data",
                "No space left on device",
                "Free some, or set data.cache_dir to a folder on another disk.",
                where=data.cache_dir,
            ) from error

    @functools.cache  # noqa: B019 - a run lives as long as its process
    def prompts(self, which: str) -> Prompts:
        """The prompts that responses are sampled for: `train` or `eval`, or `answered`.

        The last are those of `evaluation.prompts`.
        """
        data = self.experiment.data
        setting, asked = "rollout.max_new_tokens", self.experiment.rollout
        if which == "answered":
            setting, asked = "evaluation.sampler.max_new_tokens", self.experiment.evaluation.sampler
        new_tokens, reading = asked.max_new_tokens, self._reading(which)
        room = min(data.limits.max_length, self.decoder.config.max_positions) - new_tokens
        if room < 1:
            raise BadInput(
                f"data.limits.max_length above {setting} ({new_tokens})",
                f"{data.limits.max_length}, of the model's {self.decoder.config.max_positions}",
                f"Raise it, or lower {setting}: prompts need room too.",
                where="data.limits.max_length",
            )
        with processes.first_before_others():  # a catalogue's data set may have to be prepared
            prompts = load_prompts(
                reading.pop("source"),
                self.renderer,
                **reading,
                ask=self.method.ask,
                max_length=min(room, data.limits.max_prompt_length or room),
            )
        check_prompts(prompts, self.renderer, vocab_size=self.decoder.config.vocab_size)
        return prompts

    def _reading(self, which: str) -> dict[str, Any]:
        """As `Experiment.reading`, which is one in all processes: rows in memory may differ."""
        reading = self.experiment.reading(which)
        if is_written(reading["source"]) and not processes.same(Path(reading["source"]).name):
            raise BadInput(
                "the same rows in every process, in the same order",
                "others in some",
                "Give rows in an order that is not drawn without a seed, nor that of a set.",
                where=reading["source"],
            )
        return reading

    @functools.cached_property
    def train_data(self) -> Prepared:
        """What is learnt from."""
        return self.prepared("train")

    @functools.cached_property
    def eval_data(self) -> Prepared | None:
        """What is held out."""
        return None if self.experiment.data.eval is None else self.prepared("eval")

    def say(self, *what: Any) -> None:
        """Prints, unless the run is quiet. Lines of text are broken for a terminal alone."""
        if not self.quiet:
            text = all(isinstance(x, str) for x in what)
            console.print(*what, soft_wrap=text and not console.is_terminal)

    def preflight(self) -> None:
        """Checks the method, and tokens, before anything is computed; prints what was found."""
        self.check_method()
        if self.renderer.dated:
            self.say(remarks.DATED)
        if self.experiment.rollout:
            for name in ("train", "eval")[: 1 if self.experiment.data.eval is None else 2]:
                self.say(f"[bold]{name} prompts[/]: {escape(str(self.prompts(name)))}")
                self.experiment.rollout.rewards.check_prompts(self.prompts(name))
            self._remark()
            return
        for name, data in (("train", self.train_data), ("held out", self.eval_data)):
            if data is not None:
                self.say(f"[bold]{name}[/]: {escape(str(data))}")
                checks = preflight(data, self.renderer, vocab_size=self.decoder.config.vocab_size)
                self.say(table(checks))
        self._remark()

    def _remark(self) -> None:
        """Prints what data and settings say of what will be learnt."""
        sampled = bool(self.experiment.rollout)
        said = [] if sampled else remarks.of_groups(self.method, self.train_data)
        if self.experiment.data.eval is not None:
            there, asked = (
                remarks.prompts(self.prompts(name) if sampled else self.prepared(name), self.method)
                for name in ("train", "eval")
            )
            said += lints.of_prompts(there, asked)
        for line in [*said, *remarks.of_lengths(self.experiment)]:
            self.say(line)

    # --- The plan, the reference, and what is said

    def bar(self, title: str) -> Any:
        """A progress bar around an iterator of known length."""

        def wrap(steps: Iterator[Any], total: int) -> Iterator[Any]:
            if self.quiet:
                return steps
            return through(steps, total, title, console)

        return wrap

    # --- Reference and plans

    def one_pass(self, data: Groups) -> Plan:
        """Every group of a data set once, in batches of the evaluation's size."""
        shards = sharding.shards(self.mesh)
        size = -(-self.experiment.evaluation.batch_size // shards) * shards
        return make_plan(data.lengths, batch_size=size, shards=shards)

    @functools.cached_property
    def reference_fingerprint(self) -> str:
        """A key for what is made of the weights that the run begins from."""
        found, settings = [pretrained.fingerprint(self.model_dir)], self.experiment.adapter
        if settings is not None and settings.adapter_name_or_path is not None:
            found.append(peft.fingerprint(settings.adapter_name_or_path))
        if settings is not None and settings.base != "float32":
            found.append(settings.base)
        return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()

    def reference(
        self, data: Prepared, params: Params, title: str, chosen: np.ndarray | None = None
    ) -> Numbers:
        """The reference's log-probabilities of a data set, where the method needs them.

        Args:
            title: what the data set is called.
            params: of the reference, in case the numbers are not on disk yet.
            chosen: the groups that are asked for; None for all. The others get 0.
        """
        if not self.method.needs().reference:
            return {}
        part = reference.Part(data, np.arange(len(data)) if chosen is None else chosen)
        plan = self.one_pass(part)
        # The shape is in the key because rounding depends on it, though on nothing more.
        key = (
            self.reference_fingerprint,
            data.content,
            part.chosen.tobytes().hex(),
            self.experiment.model.dtype,
            repr(plan.shape),
        )
        table, was_there = reference.cached(
            Path(self.experiment.data.cache_dir),
            key,
            part,
            lambda: reference.compute(
                self.model_fn(plan), params, part, plan, put=self.put,
                progress=self.bar(f"reference log-probabilities, {title}"),
            ),
        )  # fmt: skip
        if was_there:
            self.say(f"reference log-probabilities, {title}: {len(part):,} groups found on disk")
        return {"ref_logprobs": reference.spread(table, part, data.lengths)}

    @functools.cached_property
    def num_steps(self) -> int:
        """Updates of the run."""
        loop, settings = self.experiment.loop, self.experiment.rollout
        if not settings:
            return loop.num_steps(len(self.train_data))
        # A prompt counts as met when it is answered, however often its answers are learnt from.
        sampling, pairing = settings.sampling(self.method), self.experiment.data.pairing
        groups = groups_of_a_prompt(self.method, sampling.num_samples, pairing)
        return loop.num_steps(len(self.prompts("train")) * groups * sampling.epochs)

    @functools.cached_property
    def plan(self) -> Plan:
        """The whole run's steps."""
        loop, data, seed = self.experiment.loop, self.train_data, self.experiment.seed
        num_steps, schedule = self.num_steps, self.method.needs().schedule
        return make_plan(
            data.lengths,
            batch_size=loop.batch_size,
            accumulation=loop.gradient_accumulation_steps,
            num_steps=num_steps,
            seed=seed,
            shards=sharding.shards(self.mesh),
            order=None
            if schedule is None
            else order(
                data.gaps, schedule, num_steps=num_steps, batch_size=loop.batch_size, seed=seed
            ),
        )

    def describe_plan(self) -> None:
        """Prints the run's size before it begins."""
        plan, shape, loop = self.plan, self.plan.shape, self.experiment.loop
        groups = len(self.train_data)
        seen = len(plan) * loop.batch_size
        self.say(
            f"[bold]plan[/]: {len(plan)} steps of {loop.batch_size} groups "
            f"({plan.accumulation} x {shape.groups}), {shape.rows} rows of {shape.row_length} "
            f"tokens, padding {plan.padding:.1%}; {seen / groups:.2f} epochs of {groups:,} groups"
            + (f", {-seen % groups} not met in the last" if seen % groups else "")
        )

    # --- Text of tokens

    def decode_all(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Sampled responses as texts, as `Renderer.texts` has them."""
        return self.renderer.texts(ids)

    def decode(self, ids: Any) -> str:
        """A prompt as text, special tokens left out."""
        return str(self.renderer.tokenizer.decode(np.asarray(ids), skip_special_tokens=True))

    def last_turn(self, ids: Any) -> str:
        """The last turn of a prompt, for showing: what stands before its last end-of-turn token."""
        ends = np.flatnonzero(np.isin(ids, list(self.renderer.end_ids)))
        begin, end = (ends[-2] + 1 if len(ends) > 1 else 0), (ends[-1] if len(ends) else len(ids))
        return self.decode(ids[begin:end]).strip().removeprefix("user\n")
