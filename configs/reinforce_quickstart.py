"""REINFORCE: what was rewarded becomes likelier, without a baseline.

    alignax train configs/reinforce_quickstart.py

Williams 1992; for language models Ahmadian et al. 2024, arXiv:2402.14740. The model, prompts and
reward of configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import REINFORCE, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=REINFORCE(beta=0.05),
        output_dir="runs/reinforce_quickstart",
    )
