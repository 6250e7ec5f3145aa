"""What the command line makes of names of other libraries, of epochs, booleans and adapters.

Plain settings are in `test_config.py`.
"""

import dataclasses
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from alignax import catalogue, config
from alignax.config import check
from alignax.core.errors import BadInput
from alignax.models.lora import LoRA
from alignax.overrides import ELSEWHERE, names, override
from alignax.train.loop import Loop
from tests.test_config import experiment, refusal

PATTERN = re.compile(r"--((?:no-)?[a-z][a-z.-]*\w)")


@pytest.fixture(scope="module")
def known():
    """The settings of all methods' configs, and those of an adapter."""
    found = {f"adapter.{name}" for name in names(LoRA())}
    for entry in catalogue.entries():
        found |= set(names(config.load(entry.config)))
    return found


def test_epochs_on_the_command_line_take_the_place_of_the_configs_steps(caplog):
    given = experiment(loop=Loop(max_steps=60, batch_size=8))
    found = override(given, ["--loop.num-train-epochs", "3"])
    assert found.loop == Loop(batch_size=8, num_train_epochs=3.0)
    assert found.loop.num_steps(24) == 9  # 3 passes over 24 in batches of 8
    assert "loop.num_train_epochs takes the place of loop.max_steps" in caplog.text
    assert "60" in caplog.text


@pytest.mark.parametrize(
    ("loop", "arguments", "steps"),
    [
        (Loop(max_steps=60), ["--loop.num_train_epochs=3", "--loop.max-steps", "5"], 5),
        (Loop(max_steps=60), ["--loop.batch-size", "8"], 60),
        (Loop(), ["--loop.num-train-epochs", "3"], None),
    ],
)
def test_steps_hold_where_they_are_given_too_or_epochs_are_not(loop, arguments, steps, caplog):
    assert override(experiment(loop=loop), arguments).loop.max_steps == steps
    assert not caplog.text


def test_true_and_false_are_booleans_to_a_template_however_they_are_written():
    words = ["enable_thinking", "false", "a", "TRUE", "b", "False", "n", "3", "word", "falsely"]
    found = override(experiment(), ["--data.chat-template-kwargs", *words, "--wandb", "true"])
    assert found.data.chat_template_kwargs == {
        "enable_thinking": False, "a": True, "b": False, "n": 3, "word": "falsely"
    }  # fmt: skip
    assert found.wandb == "true"  # a text stays one


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "3"], {"prompt": "a b", "chosen": "c"}),
        (["--data.columns.chosen", "d.e", "--seed", "3"], {"prompt": "a b", "chosen": "d.e"}),
        (["--data.columns", "label", "good", "--seed=3"], {"label": "good"}),
        (["--seed", "3", "--data.columns"], {}),
    ],
)
def test_columns_are_named_one_by_one_or_all_beside_those_of_the_config(words, expected):
    data = dataclasses.replace(experiment().data, columns={"prompt": "a b", "chosen": "c"})
    found = override(experiment(data=data), words)
    assert (found.data.columns, found.seed) == (expected, 3)


@pytest.mark.parametrize(
    ("words", "source"),
    [(["--data.train", "a.jsonl", "--data.eval", "b.jsonl"], ("a.jsonl", "b.jsonl")),
     (["--data.eval", "None"], ("train.jsonl", None))],
)  # fmt: skip
def test_a_source_is_a_text_on_the_command_line_and_that_of_eval_may_be_none(words, source):
    data = dataclasses.replace(experiment().data, eval="test.jsonl")
    found = override(experiment(data=data), words).data
    assert (found.train, found.eval) == source


@pytest.mark.parametrize("text", ["false", "True"])
def test_a_boolean_that_is_a_text_is_refused_in_a_config(text):
    data = dataclasses.replace(experiment().data, chat_template_kwargs={"enable_thinking": text})
    assert refusal(check, experiment(data=data)) == (
        f"data.chat_template_kwargs: enable_thinking: expected {text.title()}, without quotes; got "
        f"{text!r}.\n    To a template any text is true."
    )


# By what people write who come from there.
@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("--adapter.r", "Did you mean adapter.rank?"),
        ("--lora-r", "Did you mean adapter.rank?"),
        ("--adapter.lora-alpha", "Did you mean adapter.alpha?"),
        ("--use-peft", "Write --adapter.rank 16: any setting of adapter makes one."),
        ("--bf16", "Write --model.dtype bfloat16."),
        ("--per-device-train-batch-size", "Write --loop.batch-size N: the whole batch, over all "
         "devices and micro-batches."),
        ("--gradient-checkpointing", "Write --model.remat block; with none everything is kept."),
        ("--loss-type", "Losses are methods of their own, such as --method ipo: alignax methods "
         "lists them."),
        # DPO has none of its own.
        ("--num-generations", "Did you mean rollout.num_samples?"),
        ("--optim.lr", "Did you mean optim.learning_rate?"),
        # The adapter is there once one of its settings is named: how to begin one is no answer.
        ("--adapter.zzz", "alignax train CONFIG --help lists them all."),
    ],
)  # fmt: skip
def test_names_of_other_libraries_are_answered_with_ours(argument, remedy):
    assert refusal(override, experiment(), [argument, "8"]).endswith(f"\n    {remedy}")


def test_what_is_told_of_another_librarys_name_is_there(known):
    own = {"method", "rollout.server"}
    for name, meant in ELSEWHERE.items():
        assert not any(setting == name for setting in known), name
        wanted = PATTERN.findall(meant) if isinstance(meant, str) else meant
        for setting in wanted:
            bare = setting.removeprefix("no-").replace("-", "_")
            assert bare in known | own, f"{name}: {setting}"


def test_a_setting_of_the_wrong_type_is_not_replaced_by_a_default():
    """tyro takes the default of a group's class in the place of what is none."""
    given = experiment()
    object.__setattr__(given.data, "limits", 512)
    expected = "data.limits: expected a value of type TokenLimits; got 512 (int)."
    assert refusal(override, given, ["--seed", "1"]).startswith(expected)


@pytest.mark.parametrize("words", [("--adapter.rank", "8", "--adapter", "None"),
                                   ("--adapter=None", "--adapter.rank=8")])  # fmt: skip
def test_no_adapter_and_settings_of_one_are_refused(words):
    with pytest.raises(BadInput) as error:
        override(experiment(), list(words))
    assert str(error.value).startswith(
        "command line: expected --adapter None, or settings of it; got both: --adapter.rank too.\n"
    )


def test_a_given_adapter_brings_its_settings_along(tmp_path):
    described = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(described))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{layer}.lora_A.weight": np.zeros((4, 6), np.float32),
               f"{layer}.lora_B.weight": np.zeros((6, 4), np.float32)}  # fmt: skip
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    flags = ["--adapter.adapter-name-or-path", str(tmp_path), "--adapter.export", "adapter"]
    there = {"rank": 4, "alpha": 8.0, "targets": ("self_attn.q_proj",), "rslora": True}
    expected = LoRA(**there, adapter_name_or_path=str(tmp_path), export="adapter")
    assert override(experiment(), flags).adapter == expected
    # What is given beside it, or stands in the config, is not the adapter's to say.
    assert override(experiment(), [*flags, "--adapter.alpha", "2"]).adapter.alpha == 2.0
    assert override(experiment(adapter=LoRA(rank=2)), flags).adapter.rank == 2
    with pytest.raises(BadInput, match=r"expected a directory with adapter_config.json"):
        override(experiment(), ["--adapter.adapter-name-or-path=nowhere"])
