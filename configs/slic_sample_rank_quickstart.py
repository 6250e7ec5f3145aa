"""SLiC with sample-rank: order the answers of the first model as the reward does.

    alignax train configs/slic_sample_rank_quickstart.py

Zhao et al. 2023, arXiv:2305.10425. The model, prompts and reward of
configs/grpo_quickstart.py.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, SLiCSampleRank
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=SLiCSampleRank(),
        output_dir="runs/slic_sample_rank_quickstart",
    )
