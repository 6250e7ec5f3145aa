"""The adapter that a run leaves: it answers as the merged model, and training goes on from it."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from alignax import jobs
from alignax.core.errors import BadInput
from alignax.models import peft, pretrained, settings
from alignax.models.lora import LoRA
from alignax.run import Run
from alignax.sample import answer
from alignax.train.loop import Loop
from alignax.train.sharding import Mesh
from tests.models.test_template_options import TEMPLATE
from tests.run_files import arrays, held_out, updates
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory

ONE = Mesh(data=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run that leaves its adapter."""
    folder = tmp_path_factory.mktemp("exported")
    adapter = LoRA(rank=4, alpha=8.0, targets=("q_proj", "down_proj"), export="adapter")
    experiment = tiny(folder, adapter=adapter, mesh=ONE)
    jobs.train(experiment, quiet=True)
    return experiment, folder


def test_an_exported_adapter_is_that_of_the_last_checkpoint(exported):
    experiment, folder = exported
    names = {path.name for path in (folder / "run" / "export").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    card = (folder / "run" / "export" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "AutoPeftModelForCausalLM" in card
    assert "An adapter: " in card
    config = json.loads((folder / "run" / "export" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == experiment.model.model_name_or_path
    assert config["target_modules"] == ["down_proj", "q_proj"]
    tensors = load_file(folder / "run" / "export" / "adapter_model.safetensors")
    found = arrays(folder / "run" / "checkpoint-6")
    query = "base_model.model.model.layers.1.self_attn.q_proj"
    np.testing.assert_array_equal(
        tensors[f"{query}.lora_A.weight"], found["params/layers/attention/query/a"][1].T
    )
    np.testing.assert_array_equal(
        tensors[f"{query}.lora_B.weight"],
        found["params/layers/attention/query/b"][1].reshape(4, 32).T,
    )


@pytest.fixture(scope="module")
def merged(exported, tmp_path_factory):
    """The model that the same run exports where it is to be merged."""
    experiment, _ = exported
    adapter = dataclasses.replace(experiment.adapter, export="merged")
    place = tmp_path_factory.mktemp("merged") / "merged"
    jobs.export_newest(dataclasses.replace(experiment, adapter=adapter), place, quiet=True)
    return place


def test_the_same_run_exports_the_merged_model_too(exported, merged):
    expected = peft.load_merged(exported[1] / "run" / "export").params
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(merged).params, expected)


def test_an_exported_adapter_answers_as_the_merged_model_does(exported, merged):
    one, two = (
        answer(directory, ["Is 3 a number?"], temperature=0.0, max_new_tokens=8)
        for directory in (exported[1] / "run" / "export", merged)
    )
    assert one == two


def test_training_goes_on_from_a_given_adapter_which_is_then_the_reference(exported, tmp_path):
    experiment, folder = exported
    given = str(folder / "run" / "export")
    begun = dataclasses.replace(experiment.adapter, adapter_name_or_path=given, export="merged")
    changed = dataclasses.replace(
        experiment, adapter=begun, output_dir=str(tmp_path / "run"), loop=Loop(batch_size=8)
    )
    jobs.train(changed, quiet=True)
    lines = updates(tmp_path / "run")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    # What was learnt before is there from the start: the answers are those of the first run's end.
    end = held_out(folder / "run")[6]
    assert held_out(tmp_path / "run")[0]["eval_logps/chosen"] == pytest.approx(
        end["eval_logps/chosen"], abs=1e-3
    )
    for name, value in (("rank", 8), ("targets", ("query",)), ("dora", True)):
        other = dataclasses.replace(changed, adapter=dataclasses.replace(begun, **{name: value}))
        with pytest.raises(BadInput) as error:
            jobs.train(dataclasses.replace(other, output_dir=str(tmp_path / "x")), quiet=True)
        assert error.value.where == f"adapter.{name}"
        assert given in error.value.expected
    # All that differs is told at once, as it would be written.
    other = dataclasses.replace(changed, adapter=LoRA(adapter_name_or_path=given, dora=True))
    with pytest.raises(BadInput) as error:
        jobs.train(dataclasses.replace(other, output_dir=str(tmp_path / "x")), quiet=True)
    targets = ("attention/query", "mlp/down")
    assert error.value.remedy == (
        f"Set rank=4, alpha=8.0, dora=False, targets={targets} in the config's LoRA(...), or give "
        "--adapter.rank 4 --adapter.alpha 8.0 --adapter.no-dora --adapter.targets attention/query "
        "mlp/down; or begin without that adapter."
    )


def test_an_adapter_given_as_the_model_is_told_as_one(exported):
    experiment, folder = exported
    given = folder / "run" / "export"
    base = experiment.model.model_name_or_path
    with pytest.raises(BadInput) as error:
        pretrained.read_config(given)
    assert error.value.got == f"an adapter, of {base}"
    assert error.value.remedy == (
        f"Begin from its base and the adapter: --model.model-name-or-path {base} "
        f"--adapter.adapter-name-or-path {given}."
    )


def test_a_given_adapter_of_another_base_is_refused(exported, tmp_path):
    experiment, folder = exported
    model_directory(tmp_path / "wide", mlp_width=96)
    begun = dataclasses.replace(
        experiment.adapter, adapter_name_or_path=str(folder / "run" / "export"), export="merged"
    )
    model = dataclasses.replace(experiment.model, model_name_or_path=str(tmp_path / "wide"))
    changed = dataclasses.replace(
        experiment, adapter=begun, model=model, output_dir=str(tmp_path / "run")
    )
    with pytest.raises(BadInput, match="belongs to another base"):
        jobs.train(changed, quiet=True)


@pytest.mark.parametrize("told", [{"tag": "strict"}, {}])
@pytest.mark.parametrize("base_told", [{"tag": "loose"}, {}])
def test_an_exported_adapter_is_asked_by_its_own_template_and_as_that_was_told(
    exported, tmp_path, monkeypatch, told, base_told
):
    experiment, _ = exported
    base = model_directory(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"chat_template_kwargs": base_told}))
    data = dataclasses.replace(experiment.data, chat_template=TEMPLATE, chat_template_kwargs=told)
    model = dataclasses.replace(experiment.model, model_name_or_path=str(base))
    begun = dataclasses.replace(
        experiment, data=data, model=model, output_dir=str(tmp_path / "run"),
        loop=Loop(batch_size=8, max_steps=1),
    )  # fmt: skip
    export = jobs.train(begun, quiet=True)
    assert "chat_template_kwargs" not in (export / "adapter_config.json").read_text()
    asked = []

    def drawing(directory, renderer, *_):
        asked.append(renderer.prompt("Is 3 a number?"))
        return lambda prompts, numbers: ([["a"]] * len(prompts), [[True]] * len(prompts))

    monkeypatch.setattr("alignax.sample._drawing", drawing)
    answer(export, ["Is 3 a number?"], max_new_tokens=4)
    assert asked == [Run(begun, quiet=True).renderer.prompt("Is 3 a number?")]
    assert asked[0].startswith("strict\n" if told else "<|im_start|>user\n")
    # What another's adapter does not say, its base does.
    (export / "chat_template_kwargs.json").unlink(missing_ok=True)
    answer(export, ["Is 3 a number?"], max_new_tokens=4)
    assert asked[1].startswith("loose\n" if base_told else "<|im_start|>user\n")


def test_a_model_that_could_not_be_written_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    """Its adapter by itself can be written all the same."""

    def refuse(*args):
        raise BadInput("a decoder that the layout can describe", "another", "", where="config")

    made, adapter = tiny(tmp_path, mesh=ONE), LoRA(rank=4, alpha=8.0, targets=("q_proj",))
    monkeypatch.setattr(settings, "to_hugging_face", refuse)
    for merged in (made, dataclasses.replace(made, adapter=adapter)):
        with pytest.raises(BadInput, match="that the layout can describe"):
            jobs.begin(Run(merged, quiet=True))
    alone = dataclasses.replace(made, adapter=dataclasses.replace(adapter, export="adapter"))
    jobs.begin(Run(alone, quiet=True))
