"""The ids that end a response are those that transformers' `generate` stops at."""

import json

import pytest
from transformers import GenerationConfig

from alignax.core.errors import BadInput
from alignax.data.tokenizers import end_ids


def write(directory, **named):
    for name, ids in named.items():
        settings = {"model_type": "llama", "eos_token_id": ids}
        (directory / f"{name}.json").write_text(json.dumps(settings))


def test_ends_are_those_of_the_generation_config_and_for_want_of_it_those_of_config(tmp_path):
    assert end_ids(tmp_path) == ()
    write(tmp_path, config=[7, 8])
    assert end_ids(tmp_path) == (7, 8)
    theirs = GenerationConfig.from_pretrained(tmp_path, "config.json", _from_model_config=True)
    assert theirs.eos_token_id == [7, 8]
    write(tmp_path, generation_config=5)
    assert end_ids(tmp_path) == (5,)
    write(tmp_path, generation_config=None)
    assert end_ids(tmp_path) == ()


def test_a_config_that_names_no_end_or_no_number_is_said(tmp_path):
    write(tmp_path, config=None)
    assert end_ids(tmp_path) == ()
    write(tmp_path, config="</s>")
    with pytest.raises(BadInput, match=r"/config.json: expected whole numbers .*got .*</s>"):
        end_ids(tmp_path)
