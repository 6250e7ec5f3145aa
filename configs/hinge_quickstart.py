"""Hinge-norm: SLiC's hinge on log-ratios with the reference.

    alignax train configs/hinge_quickstart.py

Liu et al. 2023, arXiv:2309.06657. On the quickstart's pairs, model
and settings.

Cost:    not run yet on these weights; about the quickstart's.
Expect:  not known yet.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, Hinge
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=Hinge(beta=0.05),
        output_dir="runs/hinge_quickstart",
    )
