"""PPO: the clipped policy gradient with a critic, the baseline of all.

    alignax train configs/ppo_quickstart.py

Schulman et al. 2017, arXiv:1707.06347. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import PPO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=PPO(),
        output_dir="runs/ppo_quickstart",
    )
