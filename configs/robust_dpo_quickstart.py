"""Robust DPO: a tenth of the labels is taken to be wrong.

    alignax train configs/robust_dpo_quickstart.py

Chowdhury et al. 2024, arXiv:2403.00409. On the quickstart's pairs, model
and settings.

Cost:    not run yet on these weights; about the quickstart's.
Expect:  not known yet.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, RobustDPO
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=RobustDPO(beta=0.1, label_smoothing=0.1),
        output_dir="runs/robust_dpo_quickstart",
    )
