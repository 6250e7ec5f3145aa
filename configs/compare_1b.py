"""The comparison of configs/compare_tiny.py with a model of 1.1B parameters, on one GPU of 80 GB.

    pip install -e '.[hub,cuda]'
    alignax train configs/compare_1b.py
    alignax compare configs/compare_1b.py --only dpo grpo --seeds 4

World, data, entries, claims, budgets and numbers of trials are the tiny comparison's; rates are a
hundredth of the tiny model's. As in compare_smollm2.py, of which this is another size, the second
line teaches the model of that world and the comparison begins from there. One run at a time.

Cost:    not known: no GPU has run it. Every run passes the checks that come before the first
         update (tests/test_configs.py).
Expect:  nothing yet. With SmolLM2-135M grpo was above the start after 16 updates.
"""

import dataclasses

from compare_smollm2 import SMOLLM2, Size
from compare_smollm2 import comparison as compared
from compare_smollm2 import experiment as taught

from alignax import Experiment, Model
from alignax.compare.settings import Comparison

TINYLLAMA = dataclasses.replace(
    SMOLLM2,
    name="compare_1b",
    shown="TinyLlama-1.1B",
    model=Model(
        model_name_or_path="TinyLlama/TinyLlama-1.1B-Chat-v1.0", dtype="bfloat16", remat="attention"
    ),
    parameters="1.1B",
    rates=1 / 100,
    groups=16,
    updates=32,
    start_updates=96,
    start_rate=1e-5,
    most_updates=112,
    trials=4,
    tuning_seeds=3,
    answers=128,
    proxy_updates=150,
)


def experiment(size: Size = TINYLLAMA) -> Experiment:
    """The model that every entry begins from."""
    return taught(size)


def comparison(size: Size = TINYLLAMA) -> Comparison:
    return compared(size)
