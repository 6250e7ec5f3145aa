"""Dr. GRPO: GRPO without its weights by length and by difficulty.

    alignax train configs/dr_grpo_quickstart.py

Liu et al. 2025, arXiv:2503.20783. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import DrGRPO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=DrGRPO(num_samples=8, max_length=64),
        output_dir="runs/dr_grpo_quickstart",
    )
