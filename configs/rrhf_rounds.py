"""RRHF on its own answers, in the three regimes of the paper: data, samples once, samples anew.

    alignax train configs/rrhf_rounds.py          # sampled anew for every round; sampled once:
    alignax train configs/rrhf_rounds.py --rollout.refresh 20 --output-dir runs/rrhf_once
    alignax train configs/rrhf_quickstart.py      # data alone

Yuan et al. 2023, arXiv:2304.05302, iterated. Any method that learns from data runs on samples this
way: `rollout` makes ranked lists of them, and of those what the method learns from. The model,
prompts and reward of configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import RRHF, Experiment
from alignax.config import load


def experiment() -> Experiment:
    base = load(Path(__file__).with_name("grpo_quickstart.py"))
    return dataclasses.replace(
        base,
        method=RRHF(sft_weight=0.1),
        rollout=dataclasses.replace(base.rollout, num_samples=4, refresh=5),
        output_dir="runs/rrhf_rounds",
    )
