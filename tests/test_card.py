"""Model cards: what a run kept, nothing that it did not, and never over somebody's own."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from alignax import card, facts, jobs
from alignax.config import Evaluation
from alignax.core.errors import BadInput
from alignax.core.records import Attributed
from alignax.data.tokenise import TokenLimits
from alignax.evaluate.report import from_metrics
from alignax.generate.reward_models import ModelReward
from alignax.generate.sampler import Sampler
from alignax.methods import DPO, AttributeRewardModel, RewardModel
from alignax.models import pretrained
from alignax.run import Run
from alignax.train.loop import Loop
from tests.tiny_model import experiment, write_rows

TEMPLATE = "plain"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on 24 pairs of which two are bad and one is too long, with a template by name."""
    folder = tmp_path_factory.mktemp("card")
    settings = experiment(folder)
    path = pathlib.Path(settings.data.train)
    rows = path.read_text().splitlines()
    rows[3] = json.dumps({"prompt": "Is it?", "chosen": "yes", "rejected": ""})
    rows[5] = json.dumps({"prompt": "Is it?", "chosen": "yes", "rejected": "yes"})
    rows[7] = json.dumps({"prompt": "Is it? " * 300, "chosen": "yes", "rejected": "no"})
    path.write_text("\n".join(rows) + "\n")
    data = dataclasses.replace(
        settings.data, on_bad_row="drop", max_dropped_share=0.2, chat_template=TEMPLATE
    )
    settings = dataclasses.replace(settings, data=data)
    jobs.train(settings, quiet=True, command=["tiny.py"])
    return settings


def text_of(settings, folder="export"):
    return (pathlib.Path(settings.output_dir) / folder / "README.md").read_text()


def cells(text, first):
    """The cells of the one line of a table that begins with a cell."""
    (line,) = [x for x in text.splitlines() if x.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def section(text, title):
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_hubs_own_reader_understands_the_metadata(run):
    found = ModelCard(text_of(run)).data
    assert found.library_name == "transformers"
    assert found.pipeline_tag == "text-generation"
    assert found.tags == ["alignax", "dpo"]
    # The model and the data are files of this machine, and no license is known.
    assert (found.base_model, found.datasets, found.license) == (None, None, None)
    logged = {line["step"]: line for line in logged_lines(run) if "eval_loss" in line}
    results = {r.metric_type: r.metric_value for r in found.eval_results}
    for name in ("rewards/margins", "loss", "logps/chosen"):
        np.testing.assert_allclose(results[name], logged[6][f"eval_{name}"], rtol=1e-5)


def logged_lines(run):
    path = pathlib.Path(run.output_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_data_are_counted_with_what_was_dropped(run):
    data = section(text_of(run), "Data")
    row = cells(data, "training")
    # 24 rows; one has an empty response, one two equal ones, one is longer than 256 tokens.
    assert row[1] == "train.jsonl (train)"
    assert row[2] == "24"
    assert row[4] == "21"
    assert sum(int(part.split()[0]) for part in row[5].split("; ")) == 3
    assert "longer than max_length=256" in row[5]
    assert cells(data, "held out")[2:6] == ["8", "8", "8", "none"]


def test_the_method_is_named_with_its_settings_and_its_paper(run):
    method = section(text_of(run), "Method")
    assert "`DPO`. " in method
    assert "https://arxiv.org/abs/2305.18290" in method
    assert cells(method, "beta") == ["beta", "0.5"]
    assert "The reference is the model that training began from." in method


def test_the_training_can_be_made_again_from_what_is_told(run):
    training = section(text_of(run), "Training")
    for name, value in (
        ("updates", "6"),
        ("prompts an update", "8"),
        ("optim.learning_rate", "0.01"),
        ("optim.optimizer", "adamw"),
        ("data.limits.max_length", "256"),
        ("data.chat_template", "plain"),
        ("seed", "0"),
    ):
        assert cells(training, name) == [name, value]
    made = section(text_of(run), "Made with")
    assert "alignax train tiny.py" in made
    assert "jax " in made


def test_before_and_after_have_the_logs_intervals(run):
    shown = section(text_of(run), "Evaluation")
    lines = {line.pop("step"): line for line in logged_lines(run) if "eval_loss" in line}
    for name, n in (("rewards/margins", 8), ("sampled/length", 4)):
        sides = [
            str(from_metrics(lines[step], lambda _, n=n: n)[f"eval_{name}"]) for step in (0, 6)
        ]
        assert cells(shown, name) == [name, str(n), *sides]
    assert "policy and reference are the same" in shown


def test_no_path_of_the_machine_is_told(run):
    assert str(pathlib.Path(run.output_dir).parent) not in text_of(run)


def test_the_exported_template_is_the_one_of_the_training(run):
    # Where people look for it: transformers alone, on the directory alone.
    exported = pathlib.Path(run.output_dir) / "export"
    turns = [{"role": "user", "content": "Q"}]
    tokenizer = AutoTokenizer.from_pretrained(exported)
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked == "User:\nQ\n\nAssistant:\n" == Run(run, quiet=True).renderer.prompt("Q")
    assert "chat_template" not in json.loads((exported / "tokenizer_config.json").read_text())
    assert "is the one of the training" in section(text_of(run), "Use")


def test_export_of_an_earlier_step_says_so_and_claims_nothing_of_the_end(run, tmp_path):
    jobs.export_newest(run, tmp_path / "four", step=4, quiet=True)
    text = (tmp_path / "four" / "README.md").read_text()
    assert "4 of 6 updates" in text
    assert cells(section(text, "Training"), "updates") == ["updates", "4"]
    assert cells(section(text, "Evaluation"), "rewards/margins")[3] == ""
    assert "Nothing was measured at update 4" in text
    assert "model-index" not in text
    last = pretrained.load(pathlib.Path(run.output_dir) / "export").params
    found = pretrained.load(tmp_path / "four").params
    assert not np.array_equal(last["embed"], found["embed"])


def test_a_step_without_a_checkpoint_is_refused_with_those_that_there_are(run, tmp_path):
    with pytest.raises(BadInput, match=r"of step 5; got no such checkpoint.*\n.*: 4, 6\."):
        jobs.export_newest(run, tmp_path / "five", step=5, quiet=True)
    assert not (tmp_path / "five").exists()


def test_an_export_long_after_needs_no_data_and_writes_the_same_card(run, tmp_path):
    away = tmp_path / "away"
    train = pathlib.Path(run.data.train)
    shutil.move(train, away)
    try:
        jobs.export_newest(run, tmp_path / "later", quiet=True)
    finally:
        shutil.move(away, train)
    assert (tmp_path / "later" / "README.md").read_text() == text_of(run)


def test_a_run_that_kept_nothing_still_gets_a_card(run, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run.output_dir, bare)
    (bare / facts.FILE).unlink()
    (bare / "metrics.jsonl").unlink()
    settings = dataclasses.replace(run, output_dir=str(bare))
    jobs.export_newest(settings, tmp_path / "out", quiet=True)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "trained further by DPO, 6 updates" in text
    for title in ("Data", "Evaluation", "Made with"):
        assert f"## {title}" not in text


def test_a_card_of_ours_is_replaced_and_one_that_somebody_has_touched_is_not(run, tmp_path):
    target = tmp_path / "out"
    jobs.export_newest(run, target, step=4, quiet=True)
    jobs.export_newest(run, target, quiet=True)  # over the card of step 4
    assert (target / "README.md").read_text() == text_of(run)
    for change in (lambda text: text + "My notes.\n", lambda text: text.replace("DPO", "IPO"),
                   lambda _: "# Mine\n"):  # fmt: skip
        mine = change(text_of(run))
        (target / "README.md").write_text(mine)
        with pytest.raises(BadInput, match=r"an earlier export; got 1 other files, README.md"):
            jobs.export_newest(run, target, quiet=True)
        assert (target / "README.md").read_text() == mine


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlanguage: en\nlicense: llama3.2\ntags:\n- x\n---\n# M\n", "llama3.2"),
        ("# M\nlicense: mit\n", None),
        ("---\nlicense:\n- mit\n---\n", None),
    ],
)
def test_a_license_is_that_of_the_model_begun_with_or_none(front, wanted, run, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(run.model.model_name_or_path, model)
    (model / "README.md").write_text(front)
    found = dataclasses.replace(run.model, model_name_or_path=str(model))
    text = card.write(Run(dataclasses.replace(run, model=found), quiet=True), 6)
    assert ModelCard(text).data.license == wanted


def test_a_model_and_a_data_set_of_the_hub_are_linked(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    here = run.model.model_name_or_path
    monkeypatch.setattr(pretrained, "locate", lambda name: pathlib.Path(here))
    bare = tmp_path / "bare"
    shutil.copytree(run.output_dir, bare)
    kept = json.loads((bare / facts.FILE).read_text())
    kept["data"][0]["source"] = "hf:owner/pairs"
    kept["data"][1]["source"] = "owner/pairs"
    (bare / facts.FILE).write_text(json.dumps(kept))
    model = dataclasses.replace(run.model, model_name_or_path="owner/name")
    settings = dataclasses.replace(run, model=model, output_dir=str(bare))
    text = card.write(Run(settings, quiet=True), 6)
    found = ModelCard(text).data
    assert found.base_model == "owner/name"
    assert found.datasets == ["owner/pairs"]
    assert found.eval_results[0].dataset_type == "owner/pairs"
    assert "[owner/name](https://huggingface.co/owner/name)" in text


def test_a_reward_model_is_a_classifier(tmp_path):
    settings = experiment(
        tmp_path,
        method=RewardModel(),
        loop=Loop(batch_size=8, max_steps=1),
        evaluation=Evaluation(num_prompts=0, sampler=Sampler(max_new_tokens=4)),
    )
    jobs.train(settings, quiet=True)
    text = text_of(settings)
    assert ModelCard(text).data.pipeline_tag == "text-classification"
    assert "A reward model: model, trained further by RewardModel, 1 update." in text
    use = section(text, "Use")
    assert "sequence classifier" in use
    assert "`alignax score . --data FILE --to FILE` scores responses" in use
    exec(use.split("```python\n")[1].split("```")[0], found := {})
    assert found["rollout"].rewards.parts == (ModelReward(directory="."),)
    assert "```\nalignax" not in text  # no command started it


def test_a_reward_model_of_another_kind_is_used_otherwise(tmp_path):
    settings = experiment(tmp_path, method=AttributeRewardModel())
    write_rows(pathlib.Path(settings.data.train), 8, Attributed)  # of depth and of wit
    data = dataclasses.replace(settings.data, template="none")
    text = card.write(Run(dataclasses.replace(settings, data=data), quiet=True), 1)
    assert 'ModelReward(directory=".", head=0, template="none")' in section(text, "Use")
    assert "--to FILE --template none`" in section(text, "Use")
    told = dataclasses.replace(settings.data, chat_template_kwargs={"tag": "strict"})
    text = card.write(Run(dataclasses.replace(settings, data=told), quiet=True), 1)
    assert "The chat template is told `tag='strict'`; alignax reads that" in section(text, "Use")


def test_a_template_given_as_text_is_not_spelt_out(tmp_path):
    settings = experiment(tmp_path, method=DPO(), loop=Loop(batch_size=8, max_steps=1))
    template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    data = dataclasses.replace(
        settings.data, chat_template=template, limits=TokenLimits(max_length=128)
    )
    text = card.write(Run(dataclasses.replace(settings, data=data), quiet=True), 1)
    assert cells(text, "data.chat_template") == ["data.chat_template", "given as text"]
    assert "m.content" not in text
