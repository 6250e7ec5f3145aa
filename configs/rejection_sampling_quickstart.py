"""Llama 2's rejection sampling: imitate the best answer of all rounds so far.

    alignax train configs/rejection_sampling_quickstart.py

Touvron et al. 2023, arXiv:2307.09288. The model, prompts and reward of
configs/grpo_quickstart.py. Their last round is PPO, from what the rounds before have left, which is
then the reference too:

    alignax train configs/ppo_quickstart.py --output-dir runs/rejection_sampling_ppo \
        --model.model-name-or-path runs/rejection_sampling_quickstart/export

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, RejectionSampling
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("grpo_quickstart.py")),
        method=RejectionSampling(num_samples=8, refresh=4),
        output_dir="runs/rejection_sampling_quickstart",
    )
