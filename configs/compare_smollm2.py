"""The comparison of configs/compare_tiny.py with SmolLM2-135M, or any other model directory.

    python configs/quickstart/fetch_weights.py --output weights/SmolLM2-135M-Instruct
    alignax train configs/compare_smollm2.py
    alignax compare configs/compare_smollm2.py --only dpo grpo --seeds 4

World, data, entries, claims and gold reward are the tiny comparison's. By the second line the model
learns to speak of that world, as the tiny one did (supervised, on the answers of the data set),
and the comparison begins from what that leaves. Rates are a thirtieth of the tiny model's; the
sizes below are for two CPU cores. compare_1b.py does the same with 1.1B parameters on a GPU.

Cost:    on 2 CPU cores a slice only, some two and a half hours in all: the second line took 41 min
         beside other work, the reward model 26 min and 8.3 GiB, the 17 runs 75 min, two at a time.
         A run of dpo takes up to 4.4 GiB, one of grpo 7. No GPU has run it.
Expect:  grpo above the start, told neither from best of 16 nor from dpo, and dpo not from the
         start, 16 updates into each (benchmarks/RESULTS.md, "The same comparison with
         SmolLM2-135M").
"""

import dataclasses
from pathlib import Path

from alignax import SFT, Experiment, Model, Optim
from alignax.compare.settings import Comparison, Entry
from alignax.config import load_as


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What of the tiny comparison is otherwise for a larger model.

    Fields:
        name: of the folders in runs/. shown: of the model, in titles.
        model: what the model to begin from is taught from.
        parameters: of it, in words.
        rates: of the tiny model's.
        groups, updates: the budget of equal data.
        start_updates, start_rate: that teach the model of the world; with 32, half of
            SmolLM2-135M's answers do not end, and best of 16 is worse than best of 4.
        most_updates: where an entry ends that has not spent the budget of equal arithmetic.
        trials: of each entry; two are the first and the third, which has another rate.
        tuning_seeds: runs of each trial.
        answers: of the reference to each prompt, for best of n.
        proxy_updates: of the reward model, 64 pairs each.
    """

    name: str
    shown: str
    model: Model
    parameters: str
    rates: float
    groups: int
    updates: int
    start_updates: int
    start_rate: float
    most_updates: int
    trials: int
    tuning_seeds: int
    answers: int
    proxy_updates: int

    @property
    def start(self) -> str:
        """The run that makes the model to begin from."""
        return f"runs/{self.name}_start"


# Sized for two CPU cores; compare_1b.py has the tiny comparison's numbers.
SMOLLM2 = Size(
    name="compare_smollm2",
    shown="SmolLM2-135M",
    model=Model(model_name_or_path="weights/SmolLM2-135M-Instruct", remat="attention"),
    parameters="135M",
    rates=1 / 30,
    groups=8,
    updates=16,
    start_updates=192,
    start_rate=3e-5,
    most_updates=32,
    trials=2,
    tuning_seeds=1,
    answers=16,
    proxy_updates=50,
)
TINY = Path(__file__).with_name("compare_tiny.py")
RATE = "optim.learning_rate"
LENGTHS = ("loop.max_steps", "loop.eval_steps", "rollout.refresh")


def experiment(size: Size = SMOLLM2) -> Experiment:
    """The model that every entry begins from."""
    base = load_as(TINY, Comparison, example=str(TINY)).base
    return dataclasses.replace(
        base,
        method=SFT(),
        model=size.model,
        optim=Optim(learning_rate=size.start_rate),
        loop=dataclasses.replace(base.loop, max_steps=size.start_updates),
        output_dir=size.start,
    )


def comparison(size: Size = SMOLLM2) -> Comparison:
    tiny = load_as(TINY, Comparison, example=str(TINY))

    def rated(entry: Entry) -> Entry:
        trials = tuple(x | {RATE: x[RATE] * size.rates} if RATE in x else x for x in entry.trials)
        own = dict(entry.settings)
        own |= {RATE: own[RATE] * size.rates} if RATE in own else {}
        # Lengths in updates, by the budget.
        whole = tiny.base.loop.max_steps or size.updates
        own |= {name: max(1, own[name] * size.updates // whole) for name in LENGTHS if name in own}
        # Spread over those there are: the first ones would have one rate.
        spread = trials[:: max(1, len(trials) // size.trials)][: size.trials]
        return dataclasses.replace(entry, trials=spread, settings=own)

    whole = tiny.base.loop.max_steps
    notes = [f"Where a claim's note counts updates, here they are {size.updates} for {whole}."]
    notes = notes if size.updates != whole else []
    model = dataclasses.replace(size.model, model_name_or_path=f"{size.start}/export")
    loop = dataclasses.replace(tiny.base.loop, batch_size=size.groups, max_steps=size.updates)
    proxy = dataclasses.replace(
        tiny.proxy,
        model=model,
        optim=dataclasses.replace(
            tiny.proxy.optim, learning_rate=tiny.proxy.optim.learning_rate * size.rates
        ),
        loop=dataclasses.replace(tiny.proxy.loop, max_steps=size.proxy_updates),
    )
    return dataclasses.replace(
        tiny,
        title=f"Notes about animals, by {size.shown}",
        base=dataclasses.replace(tiny.base, model=model, loop=loop),
        proxy=proxy,
        entries=tuple(rated(entry) for entry in tiny.entries),
        most_updates=size.most_updates,
        tuning_seeds=size.tuning_seeds,
        answers=size.answers,
        proxy_says=tiny.proxy_says.replace("of the same size", "on the same model"),
        limits=(
            f"One made-up world, one model of {size.parameters} parameters, {size.updates} to "
            f"{size.most_updates} updates of {size.groups} groups.",
            *notes,
            "The data set's answers are the tiny model's, and so others' for this one.",
            f"{size.trials} trials a method: another range of settings can change the order.",
            *(x.replace("update 112", f"update {size.most_updates}") for x in tiny.limits[2:]),
        ),
    )
