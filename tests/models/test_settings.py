"""What an export says beside its weights."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from alignax.models import pretrained
from alignax.models.settings import copy_tokenizer
from tests.models.test_family_files import publish
from tests.models.test_pretrained import publish as publish_with_tokenizer
from tests.models.test_pretrained import rewrite

CODE = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}


@pytest.fixture
def model(tmp_path):
    return publish_with_tokenizer(tmp_path / "published", "grouped_tied")


def exported(model):
    """The export of a model as it was read, and a reader of its files."""
    found, out = pretrained.load(model), model.with_name("out")
    pretrained.save(out, found.params, found.config, source=model)
    return lambda name: json.loads((out / name).read_text())


def test_code_that_is_not_exported_is_not_named(model):
    rewrite(model / "config.json", auto_map=CODE)
    before = AutoTokenizer.from_pretrained(model)("7 cats").input_ids
    rewrite(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Own", None]})
    read = exported(model)
    assert "auto_map" not in read("config.json")
    assert "auto_map" not in read("tokenizer_config.json")
    # A tokenizer that names no file of code asks nobody whether it may be run.
    out = model.with_name("out")
    after = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    assert after("7 cats").input_ids == before


def test_files_of_a_tokenizer_that_names_no_code_are_copied_to_the_byte(model, tmp_path):
    (tmp_path / "copied").mkdir()
    copy_tokenizer(model, tmp_path / "copied")
    names = {path.name for path in (tmp_path / "copied").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    for name in names:
        assert (tmp_path / "copied" / name).read_bytes() == (model / name).read_bytes()


def test_padding_that_the_generation_settings_leave_open_is_that_of_config_json(model):
    rewrite(model / "config.json", pad_token_id=3)
    rewrite(model / "generation_config.json", pad_token_id=None, bos_token_id=5)
    generation = exported(model)("generation_config.json")
    assert (generation["pad_token_id"], generation["bos_token_id"]) == (3, 5)


@pytest.mark.parametrize("mask", [np.uint8, np.bool_, np.float32])
@pytest.mark.parametrize(
    ("case", "name"),
    [("gpt2", "transformer.h.{}.attn.bias"), ("neox", "gpt_neox.layers.{}.attention.bias")],
)
def test_masks_larger_than_the_weights_do_not_give_them_their_dtype(tmp_path, case, name, mask):
    masks = {name.format(i): np.ones((1, 1, 512, 512), mask) for i in range(3)}
    source = publish(tmp_path / "source", case, extra=masks)
    found = pretrained.load(source)
    assert found.dtype == "bfloat16"
    pretrained.save(tmp_path / "out", found.params, found.config, source=source)
    assert pretrained.load(tmp_path / "out").dtype == "bfloat16"
