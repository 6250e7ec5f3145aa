"""SimPO: average log-probabilities as rewards, no reference.

    alignax train configs/simpo_quickstart.py

Meng et al. 2024, arXiv:2405.14734. On the quickstart's pairs, model
and settings.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, SimPO
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=SimPO(beta=2.0, gamma=1.0),
        output_dir="runs/simpo_quickstart",
    )
