"""The comparison of configs/compare_tiny.py with SmolLM2-135M, or any other model directory.

    python configs/quickstart/fetch_weights.py --output weights/SmolLM2-135M-Instruct
    alignax train configs/compare_smollm2.py
    alignax compare configs/compare_smollm2.py --only dpo grpo --seeds 4

World, data, entries, claims and gold reward are the tiny comparison's. By the second line the model
learns to speak of that world, as the tiny one did (supervised, on the answers of the data set),
and the comparison begins from what that leaves. Rates are a thirtieth of the tiny model's; the
sizes below are for two CPU cores. For a model of 1B parameters on a GPU give MODEL another
directory, take the tiny comparison's sizes, and take rates down by 3 again (RATES).

Cost:    on 2 CPU cores a slice only. The second line some 15 min (reckoned); the reward model 20
         to 40 min and 8.3 GiB; a run of dpo 5 min and 4.4 GiB, of grpo 11 min and 7 GiB, two at a
         time. No GPU has run it.
Expect:  grpo above the start, told neither from best of 16 nor from dpo, and dpo not from the
         start, 16 updates into each (benchmarks/RESULTS.md, "The same comparison with
         SmolLM2-135M").
"""

import dataclasses
from pathlib import Path

from alignax import SFT, Experiment, Model, Optim
from alignax.compare.settings import Comparison, Entry
from alignax.config import load_as

MODEL = "weights/SmolLM2-135M-Instruct"
RATES = 1 / 30  # of the tiny model's
# Sized for two CPU cores; a GPU has room for the tiny comparison's, which follow each.
GROUPS, UPDATES = 8, 16  # 16, 32: the budget of equal data
START_UPDATES = 192  # with 32, half of its answers do not end and best of 16 is worse than of 4
MOST_UPDATES = 32  # 112: where an entry ends that has not spent the budget of equal arithmetic
TRIALS = 2  # 4: of each entry, the first and the third, which has another rate
ANSWERS = 16  # 128: of the reference to each prompt, for best of n
PROXY_UPDATES = 50  # 150: of the reward model, 64 pairs each
TINY = Path(__file__).with_name("compare_tiny.py")
START = "runs/compare_smollm2_start"
RATE = "optim.learning_rate"
LENGTHS = ("loop.max_steps", "loop.eval_steps", "rollout.refresh")


def experiment() -> Experiment:
    """The model that every entry begins from."""
    base = load_as(TINY, Comparison, example=str(TINY)).base
    return dataclasses.replace(
        base,
        method=SFT(),
        model=Model(model_name_or_path=MODEL, remat="attention"),
        optim=Optim(learning_rate=3e-5),
        loop=dataclasses.replace(base.loop, max_steps=START_UPDATES),
        output_dir=START,
    )


def comparison() -> Comparison:
    tiny = load_as(TINY, Comparison, example=str(TINY))

    def rated(entry: Entry) -> Entry:
        trials = tuple(x | {RATE: x[RATE] * RATES} if RATE in x else x for x in entry.trials)
        own = dict(entry.settings)
        own |= {RATE: own[RATE] * RATES} if RATE in own else {}
        # Lengths in updates, by the budget.
        whole = tiny.base.loop.max_steps or UPDATES
        own |= {name: max(1, own[name] * UPDATES // whole) for name in LENGTHS if name in own}
        # Spread over those there are: the first ones would have one rate.
        spread = trials[:: max(1, len(trials) // TRIALS)][:TRIALS]
        return dataclasses.replace(entry, trials=spread, settings=own)

    model = Model(model_name_or_path=f"{START}/export", remat="attention")
    loop = dataclasses.replace(
        tiny.base.loop, batch_size=GROUPS, max_steps=UPDATES, eval_steps=UPDATES
    )
    proxy = dataclasses.replace(
        tiny.proxy,
        model=model,
        optim=dataclasses.replace(
            tiny.proxy.optim, learning_rate=tiny.proxy.optim.learning_rate * RATES
        ),
        loop=dataclasses.replace(tiny.proxy.loop, max_steps=PROXY_UPDATES),
    )
    return dataclasses.replace(
        tiny,
        title="Notes about animals, by SmolLM2-135M",
        base=dataclasses.replace(tiny.base, model=model, loop=loop),
        proxy=proxy,
        entries=tuple(rated(entry) for entry in tiny.entries),
        most_updates=MOST_UPDATES,
        answers=ANSWERS,
        proxy_says=tiny.proxy_says.replace("of the same size", "on the same model"),
        limits=(
            f"One made-up world, one model of 135M parameters, {UPDATES} to {MOST_UPDATES} updates "
            f"of {GROUPS} groups.",
            f"Where a claim's note counts updates, here they are {UPDATES} for "
            f"{tiny.base.loop.max_steps}.",
            "The data set's answers are the tiny model's, and so others' for this one.",
            f"{TRIALS} trials a method: another range of settings can change the order.",
            *(x.replace("update 112", f"update {MOST_UPDATES}") for x in tiny.limits[2:]),
        ),
    )
