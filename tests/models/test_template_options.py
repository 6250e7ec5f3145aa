"""What a chat template is told in training is what it is told of the export."""

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from alignax import jobs
from alignax.cli import main
from alignax.core.errors import BadInput
from alignax.data import json_lines
from alignax.generate.reward_models import ModelReward
from alignax.generate.scoring import load_scorer
from alignax.methods import RewardModel
from alignax.models import pretrained
from alignax.models.settings import template_options
from alignax.run import Run
from alignax.sample import sample
from tests.tiny_model import experiment

# The tag is a letter for each token.
TEMPLATE = (
    "{% if tag %}{{ tag }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% endif %}"
)
TOLD = {"tag": "strict", "brief": True, "level": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A reward model whose template was told something."""
    made = experiment(tmp_path_factory.mktemp("told"), method=RewardModel())
    data = dataclasses.replace(made.data, chat_template=TEMPLATE, chat_template_kwargs=TOLD)
    made = dataclasses.replace(made, data=data)
    return made, jobs.train(made, quiet=True)


def test_the_export_says_what_its_template_was_told_and_transformers_reads_it(trained):
    _, export = trained
    assert template_options(export) == TOLD
    config = AutoConfig.from_pretrained(export)
    assert (config.chat_template_kwargs, config.num_labels) == (TOLD, 1)
    found = pretrained.load(export)
    # Of a run that begins from it, its own settings say.
    pretrained.save(export.parent / "again", found.params, found.config, source=export)
    assert template_options(export.parent / "again") == {}


def test_scores_are_of_the_tokens_that_it_was_trained_on(trained, tmp_path):
    made, export = trained
    run = Run(made, quiet=True)
    rows = json_lines.read(Path(made.data.eval))
    (tokens,) = load_scorer(export).encode([rows[0]["prompt"]], [[rows[0]["chosen"]]])
    trained_on = run.eval_data[0].prompt.tolist()
    assert tokens.prompt == trained_on
    plain = run.renderer.tokenizer("strict\n").input_ids
    assert tokens.prompt[: len(plain)] == plain

    target = tmp_path / "scored.jsonl"
    main(["score", str(export), "--data", made.data.eval, "--to", str(target)])
    judge = ModelReward(directory=str(export))
    found = judge([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    assert found == pytest.approx([x["score_chosen"] for x in json_lines.read(target)], abs=2e-6)


def test_a_model_is_asked_as_its_config_says_and_by_a_run_as_the_runs_settings_say(
    trained, tmp_path, monkeypatch
):
    made, export = trained
    asked = []

    def drawing(directory, renderer, *_):
        asked.append(dict(renderer.chat_template_kwargs))
        return lambda prompts, numbers: ([["a"]] * len(prompts), [[True]] * len(prompts))

    monkeypatch.setattr("alignax.sample._drawing", drawing)
    for i, told in enumerate(({}, {"chat_template_kwargs": {}})):
        target = tmp_path / f"{i}.jsonl"
        sample(export, made.data.eval, target, max_new_tokens=4, quiet=True, **told)
    assert asked == [TOLD, {}]


@pytest.mark.parametrize("said", ["strict", ["a"], {"tag": ["a"]}, {"tag": None}])
def test_what_is_no_words_for_a_template_is_refused(said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"chat_template_kwargs": said}))
    with pytest.raises(BadInput) as error:
        template_options(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'config.json'}: expected chat_template_kwargs as an object with a string, a "
        f"whole number, true or false for each name; got {said!r}.\n"
        "    Mend config.json, or take the key out."
    )
