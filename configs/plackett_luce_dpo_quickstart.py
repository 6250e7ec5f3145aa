"""DPO on ranked lists of any length, by the model of Plackett and Luce.

    alignax train configs/plackett_luce_dpo_quickstart.py

Rafailov et al. 2023, arXiv:2305.18290, appendix A.3. On the
quickstart's model and settings; its pairs are lists of two. Data of its own kind have the columns
prompt, completions and scores.

Cost:    not run yet on these weights; about the quickstart's.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does on data of its own kind.
"""

import dataclasses
from pathlib import Path

from alignax import Experiment, PlackettLuceDPO
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=PlackettLuceDPO(beta=0.1),
        output_dir="runs/plackett_luce_dpo_quickstart",
    )
