"""RRHF: order log-probabilities as scores order responses, and imitate the best.

    alignax train configs/rrhf_quickstart.py

Yuan et al. 2023, arXiv:2304.05302. On the
quickstart's model and settings; its pairs are lists of two. Data of its own kind have the columns
prompt, completions and scores.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does on data of its own kind.
"""

import dataclasses
from pathlib import Path

from alignax import RRHF, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=RRHF(sft_weight=1.0),
        output_dir="runs/rrhf_quickstart",
    )
