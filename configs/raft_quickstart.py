"""RAFT: imitate the best of the model's own answers, again and again.

    alignax train configs/raft_quickstart.py

Dong et al. 2023, arXiv:2304.06767. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import RAFT, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=RAFT(num_samples=8, refresh=8, epochs=2),
        output_dir="runs/raft_quickstart",
    )
