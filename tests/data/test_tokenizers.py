"""The ids that end a response are those that transformers' `generate` stops at."""

import json

import pytest
from transformers import GenerationConfig

from alignax.core.errors import BadInput
from alignax.data.tokenizers import check_same_ids, end_ids
from tests.tiny import chatml_tokenizer, llama3_tokenizer, space_tokenizer


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


def saved(directory, tokenizer):
    tokenizer.save_pretrained(directory)
    return directory


def test_who_reads_anothers_ids_has_a_row_for_each_that_its_tokenizer_makes(tmp_path):
    # 5 special tokens, 256 bytes, 24 merges: ids to 284, of an embedding that may have more rows.
    own, other = saved(tmp_path / "own", chatml_tokenizer()), tmp_path / "other"
    other.mkdir()
    check_same_ids(own, other, rows=(320, 285), where="critic")
    check_same_ids(own, other, rows=(280, 280), where="critic")
    with pytest.raises(BadInput) as refused:
        check_same_ids(own, other, rows=(320, 284), where="critic")
    assert str(refused.value) == (
        f"critic: expected a model with a row for each of the 285 ids of {own}; got 284 rows in "
        f"{other}.\n    Take a model with the same tokenizer, or leave it out."
    )


def test_who_reads_anothers_ids_means_the_same_tokens_by_them(tmp_path):
    own = saved(tmp_path / "own", chatml_tokenizer())
    # Names of special tokens differ, and what was added behind the vocabulary.
    alike = llama3_tokenizer()
    alike.add_tokens(["<tool>"])
    check_same_ids(own, saved(tmp_path / "alike", alike), rows=(320, 320), where="critic")
    other = saved(tmp_path / "other", space_tokenizer())
    with pytest.raises(BadInput) as refused:
        check_same_ids(own, other, rows=(320, 320), where="critic")
    assert "critic: expected a model that reads the ids of " in str(refused.value)
    assert f"no such token in {other}" in str(refused.value)
    settings = json.loads((own / "tokenizer.json").read_text())
    vocab = settings["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]
    swapped = saved(tmp_path / "swapped", chatml_tokenizer())
    (swapped / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput) as refused:
        check_same_ids(own, swapped, rows=(320, 320), where="critic")
    assert str(refused.value) == (
        f"critic: expected a model that reads the ids of {own}, in which 'A' is 70; got 71 in "
        f"{swapped}.\n    Take a model with the same tokenizer, or leave it out."
    )
