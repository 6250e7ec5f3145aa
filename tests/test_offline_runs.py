"""Whole runs of methods that ask more of the machine than pairs do.

Statistics of the data, an order of its groups, another prompt once trained, another head, means
over the step.
"""

import dataclasses
import functools
import json
import pathlib
import shutil

import numpy as np
import pytest

from alignax import facts, jobs
from alignax.config import Data
from alignax.core.records import Attributed, Labelled, Preference, Scored
from alignax.data.pipeline import InMemory
from alignax.data.tokenise import Example, TokenLimits
from alignax.evaluate.stats import Estimate
from alignax.measuring import distinct, sampled
from alignax.methods import KTO, Curriculum, DecisionTransformer, RewardModel, SteerLM
from alignax.run import Run
from alignax.train.loop import Loop
from alignax.train.sharding import Mesh
from tests.run_files import held_out, lines, updates
from tests.tiny_model import experiment as tiny
from tests.tiny_model import write_rows


def setup(folder, method, record, **changes):
    """The tiny experiment with rows of another type."""
    made = tiny(folder, method=method, mesh=Mesh(data=1), **changes)
    for path, count in ((made.data.train, 24), (made.data.eval, 8)):
        write_rows(pathlib.Path(path), count, record)
    return made


def checkpoints(output):
    return sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@pytest.fixture(scope="module")
def decision(tmp_path_factory):
    made = setup(tmp_path_factory.mktemp("decision"), DecisionTransformer(target=1.5), Scored)
    jobs.train(made, quiet=True)
    return made, pathlib.Path(made.output_dir)


def test_a_last_line_of_the_log_that_was_cut_short_stops_no_card(tmp_path):
    run = Run(tiny(tmp_path), quiet=True)
    output = pathlib.Path(run.experiment.output_dir)
    output.mkdir()
    whole = '{"step": 3, "eval_loss": 0.5, "eval_loss/low": 0.4, "eval_loss/high": 0.6}\n'
    (output / "metrics.jsonl").write_text(whole + '{"step": 4, "l')
    assert facts.estimates(run, 3, {"eval_": 8}) == {"eval_loss": Estimate(0.5, 0.4, 0.6, 8)}


def test_a_prompt_with_several_groups_is_answered_once():
    def example(prompt):
        return Example(
            prompt=np.array([prompt], np.int32), responses=np.array([5], np.int32),
            response_lengths=np.array([1], np.int32), mask=np.ones(1, bool),
            scores=np.zeros(1, np.float32), origin="f:1",
        )  # fmt: skip

    groups = InMemory([example(prompt) for prompt in (1, 1, 2, 1, 3)])
    assert [x.prompt.tolist() for x in distinct(groups, 2)] == [[1], [2]]
    assert len(distinct(groups, 9)) == 3


def test_a_decision_transformers_scale_is_kept_with_every_checkpoint(decision):
    _, output = decision
    # 24 scores, half 0 and half 1: mean 1/2, deviation sqrt(24 / 4 / 23).
    state = json.loads((checkpoints(output)[-1] / "alignax.json").read_text())
    method = state["experiment"]["method"]
    assert method["mean"] == 0.5
    assert method["deviation"] == pytest.approx((6 / 23) ** 0.5)


def test_it_learns_from_the_responses_own_scores_and_is_asked_for_its_target(decision):
    made, output = decision
    run = Run(made, quiet=True)
    learnt = {run.decode(run.train_data[i].prompt)[-40:] for i in range(24)}
    assert all("<rm_score>: 0.98" in x or "<rm_score>: -0.98" in x for x in learnt)
    for step in (0, 6):
        asked = [row["prompt"] for row in lines(output / f"samples-{step}.jsonl")]
        assert all("<rm_score>: 1.50" in prompt for prompt in asked)


def test_another_target_needs_no_other_data_and_no_other_run(decision):
    made, output = decision
    other = dataclasses.replace(made, method=dataclasses.replace(made.method, target=-1.0))
    one, two = Run(made, quiet=True), Run(other, quiet=True)
    assert one.train_data.fingerprint == two.train_data.fingerprint
    assert "<rm_score>: -1.00" in two.decode(two.prepared("eval", asked=True)[0].prompt)
    found = jobs.evaluate(other, quiet=True)
    assert found["eval_loss"].mean == pytest.approx(held_out(output)[6]["eval_loss"], abs=1e-5)


def test_held_out_means_are_over_prompts_whatever_is_requested_in_them(decision, tmp_path):
    made, _ = decision
    rows = [
        {"prompt": f"Is {i % 4} a number?", "completion": "yes", "score": float(i)}
        for i in range(8)
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = dataclasses.replace(made, data=dataclasses.replace(made.data, eval=str(path)))
    found = jobs.evaluate(asked, quiet=True)
    assert {x.n for x in found.values()} == {4}


def test_steerlm_is_asked_for_the_best_that_it_has_seen(tmp_path):
    made = setup(tmp_path, SteerLM(), Attributed)
    jobs.train(made, quiet=True)
    asked = [row["prompt"] for row in lines(tmp_path / "run" / "samples-6.jsonl")]
    assert all("<attributes>: depth:1,wit:4" in prompt for prompt in asked)


@pytest.fixture(scope="module")
def curriculum(tmp_path_factory):
    """Gaps of 1, 2 and 3, eight pairs of each; 1 is hard. Six steps of 4."""
    folder = tmp_path_factory.mktemp("curriculum")
    loop = Loop(batch_size=4, max_steps=6, save_steps=2, keep=5)
    made = setup(folder, Curriculum(hard_gap=1.0), Preference, loop=loop)
    jobs.train(made, quiet=True)
    return made, folder


def test_a_curriculum_goes_from_easy_pairs_to_hard_ones(curriculum):
    made, folder = curriculum
    plan, gaps = Run(made, quiet=True).plan, Run(made, quiet=True).train_data.gaps
    hard = [int((gaps[plan.step(i).group.ravel()] == 1.0).sum()) for i in range(6)]
    # Shares 0, 0.2, ..., 1 of 4 pairs: sums 0, 0.8, 2.4, 4.8, 8, 12, rounded down.
    assert hard == [0, 0, 2, 2, 4, 4]
    seen = [line["gap"] for line in updates(folder / "run")]
    assert seen[0] > 2.0
    assert seen[-1] == 1.0


def test_a_curriculum_that_is_resumed_goes_on_where_it_was(curriculum):
    made, folder = curriculum
    again = folder / "again"
    shutil.copytree(folder / "run", again)
    for path in checkpoints(again)[1:]:
        shutil.rmtree(path)
    shutil.rmtree(again / "export")
    jobs.train(dataclasses.replace(made, output_dir=str(again)), quiet=True)
    for name in ("metrics.jsonl", "export/model.safetensors"):
        assert (again / name).read_bytes() == (folder / "run" / name).read_bytes()


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    """Trains a method once: to be looked at by everyone, and changed by no one."""

    @functools.cache
    def trained(method, record):
        made = setup(tmp_path_factory.mktemp("one"), method, record)
        jobs.train(made, quiet=True)
        return made, pathlib.Path(made.output_dir)

    return trained


@pytest.mark.parametrize(
    ("method", "record"), [(KTO(beta=0.5), Labelled), (RewardModel(), Preference)], ids=repr
)
def test_devices_and_micro_batches_change_nothing_but_rounding(
    method, record, on_one_device, tmp_path
):
    one, output = on_one_device(method, record)
    many = dataclasses.replace(
        one,
        mesh=Mesh(data=2, fsdp=2, tensor=2),
        loop=dataclasses.replace(one.loop, gradient_accumulation_steps=2),
        output_dir=str(tmp_path / "many"),
    )
    jobs.train(many, quiet=True)
    found, expected = (updates(x) for x in (tmp_path / "many", output))
    names = {"loss", "kl", "rewards/chosen", "rewards/rejected"} & expected[0].keys()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose([a[n] for n in names], [b[n] for n in names], atol=2e-3)
    assert expected[-1]["loss"] < expected[0]["loss"]


def test_prompts_and_not_groups_are_counted_behind_held_out_means(tmp_path):
    made = setup(tmp_path, KTO(), Labelled, loop=Loop(batch_size=8, max_steps=1))
    rows = [
        {"prompt": f"Is {i % 3} a number?", "completion": f"{i}", "label": i % 2 == 0}
        for i in range(6)
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs.train(made, quiet=True)
    kept = json.loads((tmp_path / "run" / "card.json").read_text())
    assert kept["evaluated"] == {"eval_": 3, "eval_sampled/": 3}


def test_means_over_one_kind_of_label_are_of_updates_alone(on_one_device):
    _, output = on_one_device(KTO(beta=0.5), Labelled)
    assert {"rewards/chosen", "logps/rejected"} <= updates(output)[0].keys()
    measured = held_out(output)[0].keys()
    assert "eval_rewards/signed" in measured
    assert not {"eval_rewards/chosen", "eval_rewards/margins", "eval_logps/rejected"} & measured


def test_a_reward_model_is_asked_for_no_answers(on_one_device):
    made, output = on_one_device(RewardModel(), Preference)
    assert sampled(Run(made, quiet=True)) is None
    assert not list(output.glob("samples-*"))
    assert held_out(output)[6]["eval_rewards/accuracies"] >= 7 / 8


def test_kto_with_one_prompt_is_refused_before_the_weights_are_read(tmp_path):
    from alignax.core.errors import BadInput

    made = setup(tmp_path, KTO(), Labelled)
    row = {"prompt": "p", "completion": "a", "label": True}
    rows = [row, row | {"completion": "b", "label": False}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    data = Data(train=str(tmp_path / "train.jsonl"), limits=TokenLimits(max_length=256),
                cache_dir=str(tmp_path / "cache"))  # fmt: skip
    with pytest.raises(BadInput, match="at least two different prompts"):
        jobs.train(dataclasses.replace(made, data=data), quiet=True)
