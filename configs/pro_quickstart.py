"""PRO: each response against all that are ranked below it, and imitate the best.

    alignax train configs/pro_quickstart.py

Song et al. 2023, arXiv:2306.17492. On the
quickstart's model and settings; its pairs are lists of two. Data of its own kind have the columns
prompt, completions and scores.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does on data of its own kind.
"""

import dataclasses
from pathlib import Path

from alignax import PRO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=PRO(sft_weight=0.05),
        output_dir="runs/pro_quickstart",
    )
