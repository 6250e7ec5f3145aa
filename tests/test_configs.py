"""Every config loads, passes its check and runs two steps, on a tiny model."""

import dataclasses
import pathlib

import pytest

from alignax import config, jobs
from alignax.compare import cells, settings
from alignax.generate.reward_models import ModelReward
from alignax.methods import ALL
from alignax.train.sharding import Mesh
from tests.tiny_model import model_directory, write_rows

ROOT = pathlib.Path(__file__).parents[1]
COMPARISONS = [ROOT / "configs" / f"compare_{name}.py" for name in ("tiny", "smollm2", "1b")]
CONFIGS = sorted(set((ROOT / "configs").glob("*.py")) - set(COMPARISONS))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_and_runs_two_steps(path, tmp_path):
    experiment = judged_by_a_tiny_one(config.load(path), tmp_path)
    config.check(experiment)
    record = experiment.method.needs().record
    rows = str(write_rows(tmp_path / "rows.jsonl", 8, record))
    small = dataclasses.replace(
        experiment,
        model=dataclasses.replace(
            experiment.model, model_name_or_path=str(model_directory(tmp_path / "model"))
        ),
        data=dataclasses.replace(
            experiment.data,
            train=rows,
            eval=rows,
            pairing="best-worst",
            strength=(),
            limits=dataclasses.replace(experiment.data.limits, max_length=256),
            cache_dir=str(tmp_path / "cache"),
        ),
        rollout=dataclasses.replace(
            experiment.rollout, max_new_tokens=8, refresh=1, epochs=1, slots=16
        )
        if experiment.rollout
        else experiment.rollout,
        mesh=Mesh(data=1),
        loop=dataclasses.replace(experiment.loop, batch_size=4, max_steps=2),
        evaluation=dataclasses.replace(
            experiment.evaluation,
            num_prompts=2,
            sampler=dataclasses.replace(experiment.evaluation.sampler, max_new_tokens=4),
        ),
        output_dir=str(tmp_path / "run"),
    )
    exported = jobs.train(small, quiet=True)
    assert (exported / "model.safetensors").exists()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4  # before, two steps, after


def judged_by_a_tiny_one(experiment, folder):
    """With tiny reward models in place of those that a config takes from another run."""
    parts = [
        dataclasses.replace(
            part, directory=str(model_directory(folder / f"judge-{i}", num_scores=1))
        )
        if isinstance(part, ModelReward)
        else part
        for i, part in enumerate(experiment.rollout.rewards.parts)
    ]
    rewards = dataclasses.replace(experiment.rollout.rewards, parts=tuple(parts))
    return dataclasses.replace(
        experiment, rollout=dataclasses.replace(experiment.rollout, rewards=rewards)
    )


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_every_run_of_a_comparison_passes_its_check(path, tmp_path):
    comparison = settings.load(path)
    model = dataclasses.replace(
        comparison.base.model, model_name_or_path=str(model_directory(tmp_path / "model"))
    )
    base = dataclasses.replace(comparison.base, model=model)
    comparison = dataclasses.replace(comparison, base=base)
    model_directory(cells.proxy(tmp_path), num_scores=1)
    for cell in cells.tuning(comparison):
        config.check(cells.experiment(comparison, cell, tmp_path))
    chosen = {entry.name: 0 for entry in comparison.entries if entry.like is None}
    steps = {entry.name: 40 for entry in comparison.entries}
    names = {cell.entry for cell in cells.final(comparison, chosen, steps)}
    assert names == {entry.name for entry in comparison.entries}


def test_the_larger_comparison_differs_from_the_tiny_one_in_its_model_rates_and_length():
    tiny, larger = map(settings.load, COMPARISONS[:2])
    assert [entry.name for entry in larger.entries] == [entry.name for entry in tiny.entries]
    rate = "optim.learning_rate"
    for one, other in zip(tiny.entries, larger.entries, strict=True):
        tried = [x[rate] for x in one.trials]
        assert [x[rate] for x in other.trials] == pytest.approx([x / 30 for x in tried[::2]])
        assert len(set(tried[::2])) == min(len(set(tried)), 2)  # both rates, where there are two
        for name in ("loop.max_steps", "rollout.refresh"):  # lengths: 16 updates for 32
            if name in one.settings:
                assert other.settings[name] == max(1, one.settings[name] // 2)
    apart = {f.name for f in dataclasses.fields(tiny.base)
             if getattr(tiny.base, f.name) != getattr(larger.base, f.name)}  # fmt: skip
    assert apart == {"model", "loop"}


def test_every_entry_that_samples_draws_for_each_group_that_it_meets():
    """Passes over the same drawing would be updates for which less was drawn."""
    comparison = settings.load(COMPARISONS[0])
    made = [cells.experiment(comparison, cell, pathlib.Path()) for cell in cells.tuning(comparison)]
    passes = {
        x.output_dir: x.rollout.sampling(x.method).epochs
        for x in made
        if x.method.needs().sampling is not None or x.rollout
    }
    assert len(passes) > 50
    assert {path for path, epochs in passes.items() if epochs != 1} == set()


def test_the_comparison_for_a_gpu_has_the_tiny_ones_budgets_and_trials():
    tiny, larger = settings.load(COMPARISONS[0]), settings.load(COMPARISONS[2])
    assert larger.base.loop == tiny.base.loop
    assert larger.proxy.loop == tiny.proxy.loop
    assert (larger.most_updates, larger.answers) == (tiny.most_updates, tiny.answers)
    for one, other in zip(tiny.entries, larger.entries, strict=True):
        rates = [x["optim.learning_rate"] / 100 for x in one.trials]
        assert [x["optim.learning_rate"] for x in other.trials] == pytest.approx(rates)
        assert len(other.trials) == len(one.trials)


def test_the_tiny_comparison_has_every_method_that_trains_a_policy():
    comparison = settings.load(COMPARISONS[0])
    kinds = {type(entry.method) for entry in comparison.entries}
    assert {m for m in ALL if m().needs().head != "reward"} == kinds


@pytest.mark.parametrize("path", [*CONFIGS, *COMPARISONS], ids=lambda path: path.stem)
def test_a_config_says_what_it_costs_and_what_to_expect(path):
    words = path.read_text().split('"""')[1]
    command = "compare" if path in COMPARISONS else "train"
    for part in (f"alignax {command} configs/{path.name}", "Cost:", "Expect:"):
        assert part in words
