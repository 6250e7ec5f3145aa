"""Decision Transformer: learn responses with their scores, then ask for a high one.

    alignax train configs/decision_transformer_quickstart.py

Hu et al. 2023, arXiv:2308.12050. On the
quickstart's model and settings; its pairs become a response scored 1 and one scored 0 each. Data of
its own kind have the columns prompt, completion and score. Another target once trained:
`alignax evaluate configs/decision_transformer_quickstart.py --method.target -1`.

Cost:    not run yet on these weights; about the quickstart's, less the reference's pass.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does on data of its own kind.
"""

import dataclasses
from pathlib import Path

from alignax import DecisionTransformer, Experiment
from alignax.config import load


def experiment() -> Experiment:
    return dataclasses.replace(
        load(Path(__file__).with_name("quickstart.py")),
        method=DecisionTransformer(target=2.0),
        output_dir="runs/decision_transformer_quickstart",
    )
