"""CPO: a contrast and the likelihood of the chosen answer, no reference.

    alignax train configs/cpo_quickstart.py

Xu et al. 2024, arXiv:2401.08417. On the quickstart's pairs, model
and settings.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet.
"""

import dataclasses
from pathlib import Path

from alignax import CPO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=CPO(beta=0.1),
        output_dir="runs/cpo_quickstart",
    )
