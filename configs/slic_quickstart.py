"""SLiC-direct: a hinge on log-probabilities and the likelihood of the chosen answer.

    alignax train configs/slic_quickstart.py

Zhao et al. 2023, arXiv:2305.10425. On the quickstart's pairs, model
and settings.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, SLiC
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=SLiC(delta=1.0, nll_weight=0.1),
        output_dir="runs/slic_quickstart",
    )
