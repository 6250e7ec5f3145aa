"""How long answers may get, to prompts that are learnt from and to those that are held out."""

from pathlib import Path

import pytest

from alignax.config import Evaluation, load
from alignax.core.errors import BadInput
from alignax.generate.sampler import Sampler
from alignax.methods import GRPO, DrGRPO
from alignax.run import Run
from tests.test_online_runs import setup as sampling
from tests.tiny_model import experiment as tiny


def test_prompts_without_room_are_told_by_the_setting_that_takes_it(tmp_path):
    """Of 256 tokens: what is sampled, or what answers have when others are asked."""
    asked = str(tmp_path / "test.jsonl")
    long = Evaluation(prompts=asked, sampler=Sampler(max_new_tokens=300))
    for made, which, name in (
        (tiny(tmp_path, evaluation=long), "answered", "evaluation.sampler.max_new_tokens"),
        (sampling(tmp_path, GRPO(), rollout={"max_new_tokens": 300}), "train",
         "rollout.max_new_tokens"),
    ):  # fmt: skip
        with pytest.raises(BadInput) as error:
            Run(made, quiet=True).prompts(which)
        assert error.value.expected == f"data.limits.max_length above {name} (300)"
        assert error.value.remedy == f"Raise it, or lower {name}: prompts need room too."


@pytest.mark.parametrize(("learnt", "asked", "told"), [(8, 8, False), (9, 8, True), (9, 0, False)])
def test_a_run_on_samples_says_where_answers_have_another_length(learnt, asked, told, tmp_path):
    evaluation = Evaluation(num_prompts=asked, sampler=Sampler(max_new_tokens=8))
    made = sampling(tmp_path, GRPO(), rollout={"max_new_tokens": learnt}, evaluation=evaluation)
    said = []
    run = Run(made)
    run.say = lambda *what: said.extend(map(str, what))
    run.preflight()
    expected = (
        "[yellow]lengths differ[/]: sampled responses are cut at 9 tokens "
        "(rollout.max_new_tokens), held-out answers at 8 (evaluation.sampler.max_new_tokens)"
    )
    assert (expected in said) == told
    assert any("lengths differ" in line for line in said) == told


@pytest.mark.parametrize(
    ("method", "told"),
    [(DrGRPO(num_samples=2, max_length=32), True), (DrGRPO(num_samples=2, max_length=8), False)],
)
def test_a_run_says_where_the_losss_constant_is_not_the_length_that_is_sampled(
    method, told, tmp_path
):
    evaluation = Evaluation(sampler=Sampler(max_new_tokens=8))
    made = sampling(tmp_path, method, rollout={"max_new_tokens": 8}, evaluation=evaluation)
    said, run = [], Run(made)
    run.say = lambda *what: said.extend(map(str, what))
    run.preflight()
    expected = (
        "[yellow]lengths differ[/]: the loss is divided by 32 tokens (method.max_length), sampled "
        "responses are cut at 8 (rollout.max_new_tokens): all gradients are 0.25 times those of "
        "method.max_length=8"
    )
    assert [line for line in said if "lengths differ" in line] == [expected] * told


def test_the_packages_own_configs_of_such_a_loss_sample_as_long_as_it_takes():
    made = load(Path(__file__).parents[1] / "configs" / "dr_grpo_quickstart.py")
    assert made.rollout.sampling(made.method).longest == made.rollout.max_new_tokens
