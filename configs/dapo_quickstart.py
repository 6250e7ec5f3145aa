"""DAPO: GRPO by the token, clipped higher above, where answers fare differently.

    alignax train configs/dapo_quickstart.py

Yu et al. 2025, arXiv:2503.14476. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import DAPO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=DAPO(num_samples=8),
        output_dir="runs/dapo_quickstart",
    )
