"""IPO: a finite target for every pair, averaged over tokens as in TRL.

    alignax train configs/ipo_quickstart.py

Azar et al. 2023, arXiv:2310.12036. On the quickstart's pairs, model
and settings.

Cost:    not run yet on these weights; about the quickstart's.
Expect:  not known yet.
"""

import dataclasses
from pathlib import Path

from alignax import IPO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=IPO(tau=0.1),
        output_dir="runs/ipo_quickstart",
    )
