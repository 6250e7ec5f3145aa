"""Online DPO: pairs of the model's own answers, judged anew for every update.

    alignax train configs/online_dpo_quickstart.py

Guo et al. 2024, arXiv:2402.04792. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, OnlineDPO
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=OnlineDPO(beta=0.1, num_samples=2),
        output_dir="runs/online_dpo_quickstart",
    )
