"""What a run has spent, where a hand can count it."""

import json

import numpy as np
import pytest

from alignax import GRPO, RSO, jobs
from alignax.compare import cost
from alignax.run import Run
from tests.test_online_runs import setup


def timing(step: int, seconds: float, compiled: int = 0) -> dict:
    return {"step": step, "seconds": seconds, "programs_compiled": compiled,
            "seconds_compiling": 3.0 * compiled}  # fmt: skip


def test_an_update_that_compiled_counts_as_the_others_of_its_kind():
    # 1 and 4 draw; 1 compiled what both run, 2 what the others run.
    rows = [timing(1, 20.0, 1), timing(2, 9.0, 2), timing(3, 1.0), timing(4, 8.0), timing(5, 2.0)]
    found = cost.elapsed(rows, drawing={1, 4})
    assert found == {1: 8.0, 2: 9.5, 3: 10.5, 4: 18.5, 5: 20.5}


def test_where_all_of_a_kind_compiled_the_compilers_own_time_is_left_out():
    assert cost.elapsed([timing(1, 5.0, 1), timing(2, 1.0)], drawing={1}) == {1: 2.0, 2: 3.0}


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (GRPO(num_samples=4, beta=0.0), 1),  # it draws
        (GRPO(num_samples=4, beta=0.1), 2),  # it draws, and asks the reference
        # What it draws is the reference's own, and comes with the reference's log-probabilities.
        (RSO(num_samples=4, num_accepted=2, refresh=2), 1),
    ],
    ids=["drawn", "drawn and asked", "drawn from the reference"],
)
def test_samples_meet_the_reference_where_they_are_not_its_own(method, passes, tmp_path):
    made = setup(tmp_path, method, loop={"max_steps": 2})
    jobs.train(made, quiet=True)
    run = Run(made, quiet=True)
    sizes = cost.sizes(run.decoder.config)
    prompt = np.mean([len(ids) for ids in run.prompts("train").ids])
    expected = 0.0
    for row in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        if "num_tokens" in row:
            drawn = row.get("num_generated_tokens", 0.0)
            through = drawn + row.get("prompts_drawn", 0.0) * prompt
            expected += passes * 2 * (sizes.blocks * through + sizes.head * drawn)
            met = row["num_tokens"] + row["num_prompts"] * prompt
            expected += 6 * (sizes.blocks * met + sizes.head * row["num_tokens"])
    assert cost.costs(run)[2].flops == pytest.approx(expected, rel=1e-12)
