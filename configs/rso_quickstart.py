"""RSO: pairs from answers accepted as if the optimal policy had given them.

    alignax train configs/rso_quickstart.py

Liu et al. 2023, arXiv:2309.06657. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import RSO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=RSO(num_samples=32, num_accepted=8),
        output_dir="runs/rso_quickstart",
    )
