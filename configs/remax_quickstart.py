"""ReMax: REINFORCE with the reward of the model's own greedy answer as the baseline.

    alignax train configs/remax_quickstart.py

Li et al. 2023, arXiv:2310.10505. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, ReMax
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=ReMax(beta=0.05),
        output_dir="runs/remax_quickstart",
    )
