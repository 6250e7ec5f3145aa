"""What makes two starts in one output_dir the same run: text is rendered alike, on any day."""

import dataclasses
import json

import pytest

from alignax import earlier
from alignax.data.chat import Renderer
from alignax.methods import GRPO
from alignax.run import Run
from alignax.saved import first_difference, to_json
from tests.test_online_runs import setup
from tests.tiny import SMOLLM2_TEMPLATE, chatml_tokenizer
from tests.tiny_model import experiment as tiny

TODAY = (
    "{{ '<|im_start|>system\n' ~ strftime_now('%d %b %Y') ~ '<|im_end|>\n' }}" + SMOLLM2_TEMPLATE
)
# As Llama 3's: of the day where no date is given.
GIVEN = (
    "{% if not date is defined %}{% set date = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|im_start|>system\n' ~ date ~ '<|im_end|>\n' }}" + SMOLLM2_TEMPLATE
)


def test_micro_batches_may_change_but_where_each_leaves_other_things_out():
    def run(micro_batches, dropout):
        return {
            "loop": {"gradient_accumulation_steps": micro_batches},
            "adapter": {"dropout": dropout},
        }

    assert first_difference(run(1, 0.0), run(2, 0.0)) is None
    found = first_difference(run(1, 0.1), run(2, 0.1))
    assert found == ("loop.gradient_accumulation_steps", 1, 2)


def test_a_sampling_run_whose_template_or_tokenizer_was_edited_is_another_run(tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text(SMOLLM2_TEMPLATE)
    made = setup(tmp_path, GRPO())
    data = dataclasses.replace(made.data, chat_template=str(template))
    made = dataclasses.replace(made, data=data)

    def settings():
        return earlier.settings(Run(made, quiet=True))

    before, name = settings(), "contents of tokenizer and chat template"
    assert first_difference(before, settings()) is None
    template.write_text(SMOLLM2_TEMPLATE.replace("helpful", "terse"))
    different = first_difference(before, settings())
    assert different is not None
    assert different[0] == name
    template.write_text(SMOLLM2_TEMPLATE)
    rules = tmp_path / "model" / "tokenizer.json"
    known = json.loads(rules.read_text())
    known["model"]["merges"].pop()  # the weights stay as they are
    rules.write_text(json.dumps(known))
    different = first_difference(before, settings())
    assert different is not None
    assert different[0] == name


@pytest.mark.parametrize(
    ("changes", "another"),
    [
        ({"rollout": {"max_draws": 20}}, None),  # after prompts that taught nothing
        ({"model": {"remat": "none"}}, None),  # after running out of memory
        ({"rollout": {"max_new_tokens": 9}}, "rollout.max_new_tokens"),
        ({"model": {"dtype": "bfloat16"}}, "model.dtype"),
    ],
)
def test_a_run_that_could_not_go_on_may_with_other_settings(changes, another, tmp_path):
    made = setup(tmp_path, GRPO())
    groups = {name: dataclasses.replace(getattr(made, name), **x) for name, x in changes.items()}
    found = first_difference(to_json(made), to_json(dataclasses.replace(made, **groups)))
    assert (found and found[0]) == another


@pytest.mark.parametrize("sampled", [False, True])
def test_a_template_that_writes_the_date_is_told_of_before_either_kind_of_run(
    sampled, tmp_path, capsys
):
    made = setup(tmp_path, GRPO()) if sampled else tiny(tmp_path)
    for template, told in ((TODAY, True), (SMOLLM2_TEMPLATE, False)):
        data = dataclasses.replace(made.data, chat_template=template)
        Run(dataclasses.replace(made, data=data)).preflight()
        printed = capsys.readouterr().out
        assert ("prompts change with the date" in printed.replace("\n", " ")) == told


@pytest.mark.parametrize(
    ("template", "options", "dated"),
    [
        (GIVEN, {}, True),
        (GIVEN, {"date": "1 May 2025"}, False),
        # Only under a system message, which it asks for the day as well.
        (SMOLLM2_TEMPLATE + "{% if messages[0].role == 'system' %}{{ strftime_now('%Y') }}"
         "{% endif %}", {}, True),
        (SMOLLM2_TEMPLATE + "{# strftime_now('%d') is not called #}", {}, False),
    ],
)  # fmt: skip
def test_only_a_template_that_asks_for_the_date_is_dated(template, options, dated):
    tokenizer = chatml_tokenizer()
    made = Renderer(tokenizer=tokenizer, chat_template=template, chat_template_kwargs=options)
    assert made.dated == dated
    assert not Renderer(tokenizer=tokenizer, template="none").dated
