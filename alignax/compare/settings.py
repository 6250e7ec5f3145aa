"""A comparison: what is compared, on which budgets, and what is claimed of it.

A config is a Python file with a function `comparison()` that returns a `Comparison`, such as
`configs/compare_tiny.py`.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from alignax import config
from alignax.compare.claims import ARITY, Claim
from alignax.config import Experiment
from alignax.core import modules
from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.setting_types import nearest
from alignax.generate.rewards import Reward, check_reward

Family = Literal["offline", "iterated", "online", "baseline"]
Settings = Mapping[str, Any]  # by dotted names, as on the command line
MEASURES = ("gold", "proxy", "kl", "length", "ended")  # a number a prompt
OF_A_RUN = ("flops", "seconds", "peak_mib", "grad_norm", "generated", "trained")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the league: a method with its data, and the settings that are tried for it.

    Fields:
        name: short, unique.
        family: "offline" learns from the data set; "iterated" from samples that are drawn and
            scored now and then; "online" from those of every update or few.
        trials: settings that are tried, as many for every entry, over a range that includes the
            authors' own where they say one.
        settings: what differs from the comparison's base whatever is tried, by dotted names.
        reward: of sampled responses, in place of the proxy.
        like: the entry whose chosen settings this one takes; it is not tuned. For controls and
            for the variants that claims ask for.
        after: the entry, outside the league, whose trained model of the same seed this one begins
            from; its KL is to that model.
        own_rows: a function that makes what is learnt from out of the model of `after`, in place
            of `data.train`: "path/to/file.py:name". It takes the run as it begins, and gives rows
            as a JSON Lines file has them, in the names of `data.columns` if there are any, the
            same for the same seed.
        league: whether it stands in the league; else it only serves claims and checks.
    """

    name: str
    method: Method
    family: Family
    trials: tuple[Settings, ...] = ()
    settings: Settings = dataclasses.field(default_factory=dict)
    reward: Reward | None = None
    like: str | None = None
    after: str | None = None
    own_rows: str | None = None
    league: bool = True
    title: str = ""

    @property
    def samples(self) -> bool:
        """Whether it learns from responses that are drawn while it trains."""
        return self.family in ("iterated", "online") or self.reward is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that decides a comparison.

    Fields:
        base: what all runs share: model, data, limits, loop, sampler of the answers. Its
            `loop.max_steps` updates are the data budget: with the same prompts an update, all
            entries meet as many. Its `loop.eval_steps` says how often answers are measured.
        gold: the known reward, which nothing learns from: a reward, such as
            Function(function="path/to/file.py:name"). As in training it is given the other columns
            of the prompts' rows, which `tune`, `test` and the data set must have then (the labels
            of its pairs are judged too); but no token ids, so lengths are in words.
        proxy: how the reward model is trained that sampling entries learn from.
        tune: a file of prompts that settings are chosen by; test: one that is reported.
        entries: what is compared. claims: what is asked of the results.
        tuning_seeds: runs of each trial, the same for all; the mean of their gold rewards chooses.
        seeds: of every entry at its chosen settings; none of them was tuned with.
        compute_like: the entry whose arithmetic within the data budget is the compute budget of
            all: the others go on until they have spent as much, or `most_updates`.
        most_updates: at which an entry stops, however little it has spent.
        answers: to each prompt of the baselines, drawn from the reference: best-of-n and the
            optimum are computed from them.
        measures: further known numbers of a response by name, such as the parts of the gold reward;
            they are given what it is given.
        again: the entry that runs with as many seeds once more: two halves that must not differ.
        shuffled: the entry that learns from shuffled labels, and must not beat the reference.
        workers: cells at a time on CPUs, a process each with its share of the cores. An
            accelerator runs one cell at a time.
        gold_says, proxy_says, data_says: for the page, in words. limits: what is not claimed.
    """

    title: str
    base: Experiment
    gold: Reward
    proxy: Experiment
    tune: str
    test: str
    entries: tuple[Entry, ...]
    claims: tuple[Claim, ...] = ()
    tuning_seeds: int = 1
    seeds: int = 8
    compute_like: str = ""
    most_updates: int = 160
    answers: int = 64
    measures: Mapping[str, Reward] = dataclasses.field(default_factory=dict)
    again: str = ""
    shuffled: str = ""
    workers: int = 1
    gold_says: str = ""
    proxy_says: str = ""
    data_says: str = ""
    limits: tuple[str, ...] = ()

    def entry(self, name: str) -> Entry:
        """The entry of this name."""
        return next(entry for entry in self.entries if entry.name == name)

    def check(self) -> None:
        """Refuses what cannot be compared, before anything is run."""
        names = [entry.name for entry in self.entries]
        for name in names:
            if names.count(name) > 1 or "/" in name:
                raise BadInput("names without a slash, each once", name, "Rename one.", where=name)
        known = {"gold": self.gold} | {f"measures.{name}": x for name, x in self.measures.items()}
        for name, reward in known.items():
            check_reward(reward, name)
            reward.check()
        counts = {len(entry.trials) for entry in self.entries if entry.like is None}
        if len(counts) != 1 or counts == {0}:
            raise BadInput(
                "as many trials for every entry, at least one",
                ", ".join(f"{e.name}: {len(e.trials)}" for e in self.entries if e.like is None),
                "A method that may try more settings looks better for it.",
                where="entries",
            )
        for entry in self.entries:
            for field in ("like", "after"):
                other = getattr(entry, field)
                if other is not None and other not in names:
                    _refuse(other, names, f"{entry.name}.{field}")
            if entry.like is not None and self.entry(entry.like).like is not None:
                raise BadInput("an entry that is tuned itself", entry.like, "Name that one.",
                               where=f"{entry.name}.like")  # fmt: skip
            if entry.after is not None and self.entry(entry.after).league:
                raise BadInput(
                    "an entry outside the league, which ends with the data budget",
                    f"{entry.after}, which goes on until it has spent the compute budget",
                    "Name a variant of it with league=False.",
                    where=f"{entry.name}.after",
                )
            if entry.after is not None and self.entry(entry.after).after is not None:
                raise BadInput(
                    "an entry that begins from the reference",
                    entry.after,
                    "Chains of two are the longest.",
                    where=f"{entry.name}.after",
                )
            if entry.own_rows is not None:
                if entry.after is None:
                    raise BadInput(
                        "an entry that makes its rows with the model of another",
                        "no such other",
                        "Name it in after; a data set that stands is data.train's.",
                        where=f"{entry.name}.own_rows",
                    )
                modules.load(entry.own_rows, f"{entry.name}.own_rows")
        for claim in self.claims:
            for name in claim.entries:
                if name not in names:
                    _refuse(name, names, f"claim {claim.name}")
            self._check_claim(claim)
        if self.compute_like not in names:
            _refuse(self.compute_like, names, "compute_like")
        for field in ("again", "shuffled"):
            if getattr(self, field) and getattr(self, field) not in names:
                _refuse(getattr(self, field), names, field)
        if not self.base.loop.max_steps or not self.base.loop.eval_steps:
            raise BadInput("base.loop.max_steps and eval_steps", "None", "They are the budget.")
        if self.base.loop.max_steps % self.base.loop.eval_steps:
            raise BadInput(
                "a data budget at which answers are measured",
                f"max_steps {self.base.loop.max_steps}, eval_steps {self.base.loop.eval_steps}",
                "Make it a multiple.",
                where="base.loop",
            )
        if self.base.loop.logging_steps != 1:
            raise BadInput(
                "a line in the log for every update, from which costs are counted",
                f"logging_steps {self.base.loop.logging_steps}",
                "Leave it at 1.",
                where="base.loop",
            )
        if not self.base.evaluation.sampler.is_plain:
            raise BadInput(
                "answers drawn from the policy itself: their divergence is reported",
                str(self.base.evaluation.sampler),
                "Set temperature 1, top_p 1, top_k 0 and min_p 0, without greedy_first.",
                where="base.evaluation.sampler",
            )
        if self.tuning_seeds < 1:
            raise BadInput("at least 1 run of each trial", str(self.tuning_seeds),
                           "Nothing else chooses a setting.", where="tuning_seeds")  # fmt: skip
        if self.seeds < 2:
            raise BadInput("at least 2 seeds", str(self.seeds), "One has no interval.",
                           where="seeds")  # fmt: skip

    def _check_claim(self, claim: Claim) -> None:
        where, count = f"claim {claim.name}", len(claim.entries)
        least, most = ARITY[claim.kind]
        if count < least or count > (most or count):
            wanted = f"{least} entries" + ("" if most else " or more") + f" for {claim.kind!r}"
            raise BadInput(wanted, str(count), "Name them in claim.entries.", where=where)
        metrics = [*MEASURES, *OF_A_RUN, *self.measures]
        if claim.metric not in metrics:
            near = nearest(claim.metric, metrics)
            remedy = f"Did you mean {near}?" if near else "Add it to measures."
            raise BadInput(f"a metric: {', '.join(metrics)}", claim.metric, remedy, where=where)
        for entry in map(self.entry, claim.entries):
            if claim.kind == "spread" and not entry.trials:
                raise BadInput("entries with trials of their own", entry.name,
                               f"Name {entry.like}.", where=where)  # fmt: skip
            loop = self.base.loop
            last = entry.settings.get("loop.max_steps", loop.max_steps)
            every = entry.settings.get("loop.eval_steps", loop.eval_steps)
            measured = {0, last, *range(0, (last or 0) + 1, every or 1)}
            if claim.at == "data" and loop.max_steps not in measured:
                raise BadInput(
                    f"entries that are measured at update {loop.max_steps}, the data budget",
                    f"{entry.name}: {last} updates, measured every {every}",
                    'Compare at the end (at="end"), or measure it there too.',
                    where=where,
                )


def _refuse(name: str, names: list[str], where: str) -> None:
    near = nearest(name, names)
    raise BadInput(
        f"an entry: {', '.join(names)}",
        name or "none",
        f"Did you mean {near}?" if near else "Add it to entries.",
        where=where,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What of a comparison is run, and what beside it.

    Fields:
        added: entries of others, each as `package.module:NAME` or `path/to/file.py:NAME`.
        only: entries; with none all. claims: those alone, with the entries that they are about.
        seeds: in place of the comparison's own.
    """

    added: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    seeds: int | None = None

    @property
    def name(self) -> str:
        """What is left out, as the name of a folder; empty where nothing is."""
        words = [*self.only, *self.claims, *([f"{self.seeds} seeds"] if self.seeds else [])]
        name = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
        if len(name) <= 80 and (name or not words):
            return name
        return f"{name[:71]}-{hashlib.sha256(repr(words).encode()).hexdigest()[:8]}"


WHOLE = Part()


def load(path: str | Path, part: Part = WHOLE) -> Comparison:
    """The comparison of a config file, or a part of it."""
    found = config.load_as(path, Comparison, example="configs/compare_tiny.py")
    found = dataclasses.replace(found, entries=(*found.entries, *map(_imported, part.added)))
    found.check()
    names, claims = [entry.name for entry in found.entries], {x.name: x for x in found.claims}
    for name in part.only:
        if name not in names:
            _refuse(name, names, "--only")
    for name in part.claims:
        if name not in claims:
            near = nearest(name, list(claims))
            raise BadInput(
                f"a claim: {', '.join(claims)}",
                name,
                f"Did you mean {near}?" if near else "The config lists them.",
                where="--claim",
            )
    if part.only or part.claims:
        wanted = {found.compute_like, *part.only}
        wanted |= {name for claim in part.claims for name in claims[claim].entries}
        wanted |= {x for name in wanted for x in (found.entry(name).after,) if x}
        wanted |= {x for name in wanted for x in (found.entry(name).like,) if x}
        found = dataclasses.replace(
            found,
            entries=tuple(entry for entry in found.entries if entry.name in wanted),
            claims=tuple(x for x in found.claims if set(x.entries) <= wanted),
            again=found.again if found.again in wanted else "",
            shuffled=found.shuffled if found.shuffled in wanted else "",
        )
    if part.seeds is not None:
        found = dataclasses.replace(found, seeds=part.seeds)
    found.check()
    return found


def _imported(place: str) -> Entry:
    entry = modules.load(place, f"--add {place}", what="an Entry")
    if not isinstance(entry, Entry):
        raise BadInput("an alignax.compare.settings.Entry", type(entry).__name__,
                       "Wrap the method in one.", where=f"--add {place}")  # fmt: skip
    return entry
