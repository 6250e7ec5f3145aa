"""KTO: single responses, each labelled desirable or not.

    alignax train configs/kto_quickstart.py

Ethayarajh et al. 2024, arXiv:2402.01306. On the
quickstart's model and settings; its pairs become two labelled responses each. Data of its own kind
have the columns prompt, completion and label.

Cost:    not run yet on these weights; about twice the quickstart's: two responses a label.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does on data of its own kind.
"""

import dataclasses
from pathlib import Path

from alignax import KTO, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=KTO(beta=0.1),
        output_dir="runs/kto_quickstart",
    )
