"""ORPO: likelihood and odds ratio in one, no reference.

    alignax train configs/orpo_quickstart.py

Hong et al. 2024, arXiv:2403.07691. On the quickstart's pairs, model
and settings.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet.
"""

import dataclasses
from pathlib import Path

from alignax import ORPO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=ORPO(weight=0.1),
        output_dir="runs/orpo_quickstart",
    )
