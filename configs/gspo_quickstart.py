"""GSPO: GRPO with one ratio a response.

    alignax train configs/gspo_quickstart.py

Zheng et al. 2025, arXiv:2507.18071. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import GSPO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=GSPO(num_samples=8),
        output_dir="runs/gspo_quickstart",
    )
