"""Reward-weighted regression: imitate every response, the better ones more.

    alignax train configs/reward_weighted_quickstart.py

Hu et al. 2023, arXiv:2308.12050. On the
quickstart's model and settings; its pairs become a response scored 1 and one scored 0 each. Data of
its own kind have the columns prompt, completion and score.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does on data of its own kind.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, RewardWeighted
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=RewardWeighted(beta=1.0),
        output_dir="runs/reward_weighted_quickstart",
    )
