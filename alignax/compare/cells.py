"""The cells of a comparison: each an ordinary run of one entry, at one setting, with one seed."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from alignax.compare.settings import Comparison, Settings
from alignax.config import Experiment
from alignax.core import modules
from alignax.generate.reward_models import ModelReward
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.members import changed
from alignax.run import Run

# tune: chooses a setting; final: is reported; spread: final at every trial; again: final with other
# seeds; proxy: the reward model; baselines: samples of the reference.
Purpose = Literal["proxy", "baselines", "tune", "final", "spread", "again"]
TUNING_SEED = 1000  # added to the base's, so that no reported seed was tuned with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run.

    Fields:
        entry: its name; empty for the proxy and the baselines.
        trial: which of the entry's trials. begun: of the entry that this one begins from.
        steps: updates.
    """

    purpose: Purpose
    entry: str = ""
    trial: int = 0
    begun: int = 0
    seed: int = 0
    steps: int = 0

    @property
    def path(self) -> str:
        """Where it is, below the comparison's output."""
        if not self.entry:
            return self.purpose
        return f"{self.purpose}/{self.entry}/trial-{self.trial}/seed-{self.seed}"


def tuning(comparison: Comparison) -> list[Cell]:
    """The runs of every trial of every entry that is tuned: as many for each, the same seeds."""
    steps = comparison.base.loop.max_steps
    assert steps is not None
    return [
        Cell(purpose="tune", entry=entry.name, trial=trial, seed=seed, steps=steps)
        for entry in comparison.entries
        for trial in range(len(entry.trials))
        for seed in _tuning_seeds(comparison)
    ]


def _tuning_seeds(comparison: Comparison) -> range:
    first = comparison.base.seed + TUNING_SEED
    return range(first, first + comparison.tuning_seeds)


def final(comparison: Comparison, chosen: dict[str, int], steps: dict[str, int]) -> list[Cell]:
    """The runs that are reported, seed after seed of each: they share compiled programs.

    Args:
        chosen: the trial of each entry. steps: updates of each.
    """
    budget = comparison.base.loop.max_steps
    assert budget is not None
    first = comparison.base.seed + 1
    wanted: list[Cell] = []
    for entry in comparison.entries:
        if (trial := chosen.get(entry.like or entry.name)) is not None:
            made = {"entry": entry.name, "steps": steps[entry.name]}
            if entry.after is not None:
                after = comparison.entry(entry.after)
                made["begun"] = chosen.get(after.like or after.name, 0)
            wanted.append(Cell(purpose="final", trial=trial, **made))
    spread = [n for claim in comparison.claims if claim.kind == "spread" for n in claim.entries]
    for name in dict.fromkeys(spread):
        for trial in range(len(comparison.entry(name).trials)):
            if chosen.get(name) not in (None, trial):
                wanted.append(Cell(purpose="spread", entry=name, trial=trial, steps=budget))
    if (trial := chosen.get(comparison.again)) is not None:
        wanted.append(Cell(purpose="again", entry=comparison.again, trial=trial, steps=budget))
    return [
        dataclasses.replace(
            cell, seed=first + i + (comparison.seeds if cell.purpose == "again" else 0)
        )
        for cell in wanted
        for i in range(comparison.seeds)
    ]


def siblings(comparison: Comparison, cell: Cell, made: Experiment) -> list[Experiment]:
    """A cell's experiment with every seed and every length that its entry may get."""
    lengths = [made.loop.max_steps]
    if comparison.entry(cell.entry).league and made.method.needs().schedule is None:
        least, every = comparison.base.loop.max_steps, comparison.base.loop.eval_steps
        assert least is not None
        assert every is not None
        lengths = [*range(least, comparison.most_updates, every), comparison.most_updates]
    first, seeds = comparison.base.seed, comparison.seeds
    if cell.entry == comparison.again:
        seeds *= 2
    return [
        dataclasses.replace(made, seed=seed, loop=dataclasses.replace(made.loop, max_steps=length))
        for seed in (*_tuning_seeds(comparison), *range(first + 1, first + 1 + seeds))
        for length in lengths
    ]


def setting(comparison: Comparison, cell: Cell) -> Settings:
    """What is tried in a cell, by dotted names."""
    entry = comparison.entry(cell.entry)
    return comparison.entry(entry.like or entry.name).trials[cell.trial]


def begun_from(comparison: Comparison, cell: Cell) -> Cell:
    """The run of another entry, with the same seed, whose model a cell begins from."""
    after, steps = comparison.entry(cell.entry).after, comparison.base.loop.max_steps
    assert after is not None
    assert steps is not None
    return Cell(purpose="final", entry=after, trial=cell.begun, seed=cell.seed, steps=steps)


def proxy(output: Path) -> Path:
    """Where the trained reward model is."""
    return output / "cells" / "proxy" / "export"


def learnt_reward(comparison: Comparison, output: Path) -> ModelReward:
    """The proxy, as a reward."""
    data = comparison.base.data
    return ModelReward(
        directory=str(proxy(output)), template=data.template, chat_template=data.chat_template
    )


def experiment(comparison: Comparison, cell: Cell, output: Path) -> Experiment:
    """The run of a cell, below `output`."""
    folder = output / "cells" / cell.path
    own = {"output_dir": str(folder), "tensorboard": False}
    if cell.purpose == "proxy":
        made = comparison.proxy
        return dataclasses.replace(made, data=_cached(made, output), **own)
    entry, base = comparison.entry(cell.entry), comparison.base
    rollout = Rollout()
    if entry.samples:
        judge = entry.reward or learnt_reward(comparison, output)
        rollout = dataclasses.replace(base.rollout, rewards=Rewards(parts=(judge,)))
    prompts = comparison.tune if cell.purpose == "tune" else comparison.test
    model = base.model
    if entry.after is not None:
        path = output / "cells" / begun_from(comparison, cell).path / "export"
        model = dataclasses.replace(model, model_name_or_path=str(path))
    made = dataclasses.replace(
        base,
        method=entry.method,
        model=model,
        data=_cached(base, output),
        rollout=rollout,
        loop=dataclasses.replace(base.loop, max_steps=cell.steps, save_steps=None, keep=1),
        evaluation=dataclasses.replace(
            base.evaluation, prompts=prompts, num_prompts=1_000_000, answers="always"
        ),
        seed=cell.seed,
        **own,
    )
    made = changed(made, entry.settings, entry.name)
    tried = setting(comparison, cell)
    if entry.like is not None:  # what the variant sets itself stays as it says
        tried = {name: value for name, value in tried.items() if name not in entry.settings}
    return changed(made, tried, entry.name)


def with_own_rows(comparison: Comparison, cell: Cell, made: Experiment) -> Experiment:
    """The run of a cell, on rows that its entry makes itself where it does; they are written."""
    place = comparison.entry(cell.entry).own_rows if cell.entry else None
    if place is None:
        return made
    rows = modules.load(place, f"{cell.entry}.own_rows")(Run(made, quiet=True))
    path = Path(made.output_dir) / "own.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return dataclasses.replace(made, data=dataclasses.replace(made.data, train=str(path)))


def _cached(made: Experiment, output: Path) -> Any:
    return dataclasses.replace(made.data, cache_dir=str(output / "cache"))


def read(output: Path, cells: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
    """What is known of cells by now; a result that is cut off is none."""
    found = {}
    for cell in cells:
        with contextlib.suppress(FileNotFoundError, ValueError):
            found[cell] = json.loads(result_path(output, cell).read_text(encoding="utf-8"))
    return found


def write(path: Path, found: Mapping[str, Any]) -> None:
    """A result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(json.dumps(found), encoding="utf-8")
    written.replace(path)


def result_path(output: Path, cell: Cell) -> Path:
    """The file of a cell's result."""
    return output / "cells" / cell.path / "result.json"
