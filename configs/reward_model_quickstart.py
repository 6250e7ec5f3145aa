"""A reward model of preference pairs, saved as a Hugging Face sequence classifier.

    alignax train configs/reward_model_quickstart.py

Bradley and Terry 1952; arXiv:2203.02155. On the
quickstart's model and settings; no answers are sampled. Afterwards
`alignax score runs/reward_model_quickstart/export --data FILE --to FILE` scores responses.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does on data of its own kind.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, RewardModel
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=RewardModel(centre=0.01),
        output_dir="runs/reward_model_quickstart",
    )
